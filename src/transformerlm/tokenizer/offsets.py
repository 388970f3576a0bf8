"""Character offsets of tokens: the indices for `text[start:end]`, which differ from those of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transformerlm.tokenizer.byte_alphabet import token_to_text
from transformerlm.tokenizer.pretokenize import utf8
from transformerlm.tokenizer.text_steps import WHITE_SPACE

_SPACES = WHITE_SPACE + token_to_text(b" ")


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


def trimmed_offsets(
    offsets: NDArray[np.int64], tokens: Sequence[str], *, keeps_prefix_space: bool
) -> NDArray[np.int64]:
    """Return offsets without the white space at the ends of tokens.

    Args:
        offsets: start and end of each token, `[num_tokens, 2]`.
        tokens: the tokens, in GPT-2's alphabet of bytes or as they are.
        keeps_prefix_space: one space at the beginning of the text is kept, since it may have been put there.

    Source: `process_offsets` of Hugging Face's `tokenizers`.
    """
    trimmed = offsets.copy()
    for index, token in enumerate(tokens):
        start, end = offsets[index].tolist()
        leading = len(token) - len(token.lstrip(_SPACES))
        trailing = len(token) - len(token.rstrip(_SPACES))
        if leading == 1 and keeps_prefix_space and (index == 0 or start == 0):
            leading = 0
        start = min(start + leading, end)
        if trailing and end >= trailing:
            end = max(end - trailing, start)
        trimmed[index] = start, end
    return trimmed
