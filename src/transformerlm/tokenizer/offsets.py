"""Character offsets of tokens: the indices for `text[start:end]`, which differ from those of bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from transformerlm.tokenizer.pretokenize import utf8


def character_offsets(text: str, token_lengths: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the range of characters of `text` that each of its tokens covers.

    A token that holds part of a character covers all of it, so ranges may overlap: "é!" in the tokens
    C3, A9 21 gives (0, 1) and (0, 2).

    Args:
        text: the text, special tokens included.
        token_lengths: length in bytes of each token in order, at least 1; their sum is that of the text.
            Shape `[num_tokens]`.

    Returns:
        Start and end (exclusive) of each token; shape `[num_tokens, 2]`.

    Raises:
        DataError: an unpaired surrogate in the text.
    """
    lengths = token_lengths.astype(np.int64, copy=False)
    ends = np.cumsum(lengths)
    assert lengths.min(initial=1) > 0
    if text.isascii():  # each character is one byte
        assert lengths.sum() == len(text), "these are not the tokens of this text"
        return np.stack([ends - lengths, ends], axis=1)
    encoded = np.frombuffer(utf8(text), np.uint8)
    assert lengths.sum() == len(encoded), "these are not the tokens of this text"
    # Number of characters that begin up to each byte: continuation bytes are 10xxxxxx.
    begun = np.cumsum(encoded & 0xC0 != 0x80)
    return np.stack([begun[ends - lengths] - 1, begun[ends - 1]], axis=1)
