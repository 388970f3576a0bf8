"""GPT-2's spelling of byte strings: one printable character for each byte."""

from __future__ import annotations

import itertools


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
