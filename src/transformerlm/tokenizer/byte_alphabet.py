"""GPT-2's spelling of byte strings: one printable character for each byte."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from transformerlm.tokenizer.token_table import Array, padded


def _gpt2_alphabet() -> str:
    """Return a printable character for each byte: its own in Latin-1, or the next one from U+0100 on."""
    own = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    other = itertools.count(0x100)
    return "".join(chr(byte if byte in own else next(other)) for byte in range(256))


_CHARACTERS = dict(enumerate(_gpt2_alphabet()))
BYTES = {character: byte for byte, character in _CHARACTERS.items()}
"""Character -> byte."""
# Translates the alphabet to bytes as Latin-1 characters, and every other Latin-1 character to U+FFFF, which
# cannot be encoded as Latin-1.
_LATIN_1 = dict.fromkeys(range(256), 0xFFFF) | {ord(character): byte for character, byte in BYTES.items()}
_NO_BYTE = 256
_BYTE_OF_CODE = np.full(1 << 16, _NO_BYTE, np.uint16)
_BYTE_OF_CODE[[*map(ord, BYTES)]] = [*BYTES.values()]


def token_to_text(token: bytes) -> str:
    """Return a token in GPT-2's spelling, a printable character for each byte: b" the" is "Ġthe"."""
    return token.decode("latin-1").translate(_CHARACTERS)


def text_to_token(text: str) -> bytes:
    """Return the token that is spelled `text` in GPT-2's alphabet.

    Raises:
        ValueError: a character that is not in the alphabet.
    """
    try:
        return text.translate(_LATIN_1).encode("latin-1")
    except UnicodeEncodeError as error:
        character = text[error.start]
        raise ValueError(f"{character!a} in {text!a} is not in GPT-2's alphabet of bytes") from None


def texts_to_tokens(texts: Sequence[str]) -> list[bytes]:
    """Return the token of each text, as `text_to_token` does, for many texts in a fraction of the time.

    Raises:
        ValueError: a character that is not in the alphabet.
    """
    found = _BYTE_OF_CODE[_codes_of("".join(texts))]
    if found.max(initial=0) == _NO_BYTE:
        return [*map(text_to_token, texts)]  # raises for the first text that has such a character
    return divided(found.astype(np.uint8).tobytes(), map(len, texts))


class SpelledLines(NamedTuple):
    """Lines of tokens in GPT-2's spelling, with a space between two."""

    content: Array
    """u8: the bytes that they spell, with some number for each space and line end; padded as in `Strings`."""
    spaces: Array
    """Places of the spaces."""
    ends: Array
    """Places of the line ends."""


def spelled_lines(text: str) -> SpelledLines | None:
    """Return what a text of complete lines spells; None if it has other characters."""
    codes = _codes_of(text)
    content = np.take(_BYTE_OF_CODE, codes)
    spaces, ends = np.flatnonzero(codes == ord(" ")), np.flatnonzero(codes == ord("\n"))
    if np.count_nonzero(content == _NO_BYTE) > len(spaces) + len(ends):
        return None
    return SpelledLines(padded(content.astype(np.uint8).tobytes()), spaces, ends)


def _codes_of(text: str) -> NDArray[np.uint16]:
    """Return the codes of a text in UTF-16: for what is not in the alphabet, some that are not either."""
    return np.frombuffer(text.encode("utf-16-le", "surrogatepass"), "<u2")


def divided(content: bytes, lengths: Iterable[int]) -> list[bytes]:
    """Return the parts of these lengths that bytes consist of."""
    bounds = itertools.pairwise(itertools.accumulate(lengths, initial=0))
    return [content[start:end] for start, end in bounds]
