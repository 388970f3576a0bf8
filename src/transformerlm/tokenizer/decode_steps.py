"""Decoding of tokens that are not plain bytes: the decoders of Hugging Face's `tokenizer.json`, as streams.

Each step takes tokens as they come and returns what is known of the text so far. Decoding a whole text is
feeding all of its tokens and flushing.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import regex

from transformerlm.tokenizer.byte_alphabet import BYTES


class DecodeStep(Protocol):
    """A change of a stream of tokens; an object is for one text."""

    def feed(self, tokens: list[str]) -> list[str]:
        """Return the changed tokens, without those that later ones may still change."""

    def flush(self) -> list[str]:
        """Return what was held back."""


@dataclass(frozen=True)
class MakeDecodeStep:
    """Makes a step for a new text."""

    kind: Callable[..., DecodeStep]
    arguments: tuple[str | int | bool, ...] = ()

    def __call__(self) -> DecodeStep:
        """Return a step that has seen nothing yet."""
        return self.kind(*self.arguments)


class TextDecoder:
    """A row of steps, for one text."""

    def __init__(self, steps: Sequence[MakeDecodeStep]) -> None:
        self._steps = [make() for make in steps]

    def feed(self, tokens: list[str]) -> str:
        """Return the text that these tokens complete."""
        return "".join(self.pieces(tokens))

    def pieces(self, tokens: list[str]) -> list[str]:
        """Return the text that these tokens complete, as the last step has it."""
        return self._through(tokens, 0)

    def flush(self) -> str:
        """Return the rest of the text."""
        rests = [self._through(step.flush(), index + 1) for index, step in enumerate(self._steps)]
        return "".join("".join(rest) for rest in rests)

    def _through(self, tokens: list[str], first: int) -> list[str]:
        for step in self._steps[first:]:
            tokens = step.feed(tokens)
        return tokens


def bytes_within_text(steps: Sequence[MakeDecodeStep], tokens: Sequence[str]) -> list[bytes]:
    """Return the bytes that each token stands for behind other tokens."""
    if not joins_tokens(steps):
        decoder = TextDecoder(steps)
        decoder.feed(["x"])
        are_joined = MakeDecodeStep(JoinBytes) in steps
        found = [byte_of(token) if are_joined else None for token in tokens]
        texts = iter(
            decoder.pieces([token for token, byte in zip(tokens, found, strict=True) if byte is None])
        )
        return [next(texts).encode() if byte is None else bytes([byte]) for byte in found]
    return [_bytes_behind(steps, token) for token in tokens]


def joins_tokens(steps: Sequence[MakeDecodeStep]) -> bool:
    """Return True if a step makes one text of several tokens, those such as <0xE4> apart."""
    return any(step.kind is AlphabetToText for step in steps)


def _bytes_behind(steps: Sequence[MakeDecodeStep], token: str) -> bytes:
    byte = byte_of(token) if MakeDecodeStep(JoinBytes) in steps else None
    if byte is not None:
        return bytes([byte])
    decoder = TextDecoder(steps)
    before = decoder.feed(["x"])
    return (before + decoder.feed([token]) + decoder.flush())[1:].encode()


class ReplaceInTokens:
    """Every match of a regular expression replaced by a text, in each token."""

    def __init__(self, pattern: str, content: str) -> None:
        self._pattern, self._content = regex.compile(pattern), content

    def feed(self, tokens: list[str]) -> list[str]:
        """Return the changed tokens that are known."""
        return [self._pattern.sub(lambda _: self._content, token) for token in tokens]

    def flush(self) -> list[str]:
        """Return what was held back."""
        return []


class Fuse:
    """Nothing: readers tell the steps after it that all tokens are one text."""

    def feed(self, tokens: list[str]) -> list[str]:
        """Return the changed tokens that are known."""
        return tokens

    def flush(self) -> list[str]:
        """Return what was held back."""
        return []


class PutSpaces:
    """A space before each token but the first."""

    def __init__(self) -> None:
        self._before = ""

    def feed(self, tokens: list[str]) -> list[str]:
        """Return the changed tokens that are known."""
        known: list[str] = []
        for token in tokens:
            known.append(self._before + token)
            self._before = " "
        return known

    def flush(self) -> list[str]:
        """Return what was held back."""
        return []


class JoinBytes:
    """Runs of tokens such as <0xE4> joined to text; a run that is not UTF-8 becomes U+FFFD for each byte."""

    def __init__(self) -> None:
        self._run = bytearray()

    def feed(self, tokens: list[str]) -> list[str]:
        """Return the changed tokens that are known."""
        known: list[str] = []
        for token in tokens:
            byte = byte_of(token)
            if byte is None:
                known += [*self.flush(), token]
            else:
                self._run.append(byte)
        return known

    def flush(self) -> list[str]:
        """Return what was held back."""
        run, self._run = self._run, bytearray()
        try:
            return [run.decode()] if run else []
        except UnicodeDecodeError:
            return ["\ufffd"] * len(run)


def byte_of(token: str) -> int | None:
    """Return the byte that a token such as <0x0A> stands for; None for other tokens."""
    if len(token) != 6 or not token.startswith("<0x") or not token.endswith(">") or not token.isascii():
        return None
    digits = token[3:5]
    return int(digits, 16) if regex.fullmatch(r"\+?[0-9A-Fa-f]+", digits) else None


class StripBeginning:
    """Up to a number of a character removed at the beginning of the text, or of each token."""

    def __init__(self, content: str, number: int, each: bool) -> None:
        self._content, self._number, self._left, self._each = content, number, number, each

    def feed(self, tokens: list[str]) -> list[str]:
        """Return the changed tokens that are known."""
        return [self._strip(token) for token in tokens]

    def flush(self) -> list[str]:
        """Return what was held back."""
        return []

    def _strip(self, token: str) -> str:
        if self._each:
            self._left = self._number
        while self._left and token:
            if token[0] != self._content:
                self._left = 0
                break
            token, self._left = token[1:], self._left - 1
        return token


class Metaspaces:
    """A character that stands for a space; in the first token it is removed where one was put there."""

    def __init__(self, character: str, is_prepended: bool) -> None:
        self._character, self._for_next = character, "" if is_prepended else " "

    def feed(self, tokens: list[str]) -> list[str]:
        """Return the changed tokens that are known."""
        known: list[str] = []
        for token in tokens:
            known.append(token.replace(self._character, self._for_next))
            self._for_next = " "
        return known

    def flush(self) -> list[str]:
        """Return what was held back."""
        return []


class AlphabetToText:
    """Tokens in GPT-2's alphabet of bytes, and others as they are, joined to text."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, tokens: list[str]) -> list[str]:
        """Return the changed tokens that are known."""
        return [self._decoder.decode(b"".join(map(_alphabet_bytes, tokens)))]

    def flush(self) -> list[str]:
        """Return what was held back."""
        return [self._decoder.decode(b"", final=True)]


def _alphabet_bytes(token: str) -> bytes:
    is_spelled = BYTES.keys() >= set(token)
    return bytes(map(BYTES.__getitem__, token)) if is_spelled else token.encode()
