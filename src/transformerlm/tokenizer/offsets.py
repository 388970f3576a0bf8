"""Where in a text its tokens are, in characters: what `text[start:end]` needs, not bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from transformerlm.tokenizer.pretokenize import utf8


def character_offsets(text: str, token_lengths: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """The characters that each token of a text touches, as half-open ranges of indices of `text`.

    A token that holds a part of a character covers all of it, so that neighbours may share one. "é!" in
    the tokens C3, A9 21 gives (0, 1) and (0, 2).

    Args:
        text: a text, special tokens included.
        token_lengths: bytes of each of its tokens in order, each at least 1, together the text's; shape
            [num_tokens].

    Returns:
        (start, end) of each token; shape [num_tokens, 2].

    Raises:
        DataError: for half a surrogate pair in the text, which is no character.
    """
    lengths = token_lengths.astype(np.int64, copy=False)
    ends = np.cumsum(lengths)
    assert lengths.min(initial=1) > 0
    if text.isascii():  # a character a byte
        assert lengths.sum() == len(text), "these are not the tokens of this text"
        return np.stack([ends - lengths, ends], axis=1)
    encoded = np.frombuffer(utf8(text), np.uint8)
    assert lengths.sum() == len(encoded), "these are not the tokens of this text"
    # Characters that have begun with each byte or before it: all but the first byte of one are 10xxxxxx.
    begun = np.cumsum(encoded & 0xC0 != 0x80)
    return np.stack([begun[ends - lengths] - 1, begun[ends - 1]], axis=1)
