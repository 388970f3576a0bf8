"""Changes of a text before it is encoded: normal forms of Unicode, replacements, prefixes, the byte alphabet.

Each step has two methods. `apply` returns the changed text, quickly. `align` also returns, for each character
of the result, the index of the character that it comes from, which offsets need; it is the definition.

A character of the result has one origin, as in Hugging Face's `tokenizers`: that of a composed character is
the first of those composed, that of a replacement is the last character replaced, and that of an inserted
character is the one before it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import regex

from transformerlm.tokenizer.byte_alphabet import token_to_text

Aligned = tuple[str, list[int]]
"""A changed text, and for each of its characters the index of its origin in the text before."""

UnicodeForm = Literal["NFC", "NFD", "NFKC", "NFKD"]


class TextStep(Protocol):
    """A change of a text.

    Args of both methods:
        text: the text, without added tokens.
        is_first: it begins where the whole text that is encoded begins.
    """

    def apply(self, text: str, *, is_first: bool = False) -> str:
        """Return the changed text."""

    def align(self, text: str, *, is_first: bool = False) -> Aligned:
        """Return the changed text and the origin of each character."""


def apply_steps(steps: Sequence[TextStep], text: str, *, is_first: bool = False) -> str:
    """Return the text after all steps."""
    for step in steps:
        text = step.apply(text, is_first=is_first)
    return text


def align_steps(steps: Sequence[TextStep], text: str, *, is_first: bool = False) -> Aligned:
    """Return the text after all steps, and the origin of each of its characters in `text`."""
    origins = list(range(len(text)))
    for step in steps:
        starts_first = is_first and origins[:1] == [0]
        text, own = step.align(text, is_first=starts_first)
        origins = [origins[index] for index in own]
    return text, origins


@dataclass(frozen=True)
class Normalize:
    """A normal form of Unicode (UAX #15)."""

    form: UnicodeForm

    def apply(self, text: str, *, is_first: bool = False) -> str:
        """Return the changed text."""
        # Most texts are in normal form, and whether they are is answered several times as fast.
        is_normal = unicodedata.is_normalized(self.form, text)
        return text if is_normal else unicodedata.normalize(self.form, text)

    def align(self, text: str, *, is_first: bool = False) -> Aligned:
        """Return the changed text and the origin of each character."""
        if unicodedata.is_normalized(self.form, text):
            return text, list(range(len(text)))
        marks = _decomposed("NFKD" if "K" in self.form else "NFD", text)
        pieces = _composed(marks) if self.form in ("NFC", "NFKC") else marks
        return "".join(character for character, _ in pieces), _origins(change for _, change in pieces)


_Mark = tuple[str, int]
"""A character, and how it changes the place in the text before: 0 stands for one character there, 1 was
inserted, -n stands for one and removes n more."""


def _decomposed(form: UnicodeForm, text: str) -> list[_Mark]:
    """Return the characters of a decomposed text; combining marks are in canonical order."""
    marks: list[_Mark] = []
    start = 0  # of the combining marks that are not in order yet
    for character in text:
        for index, part in enumerate(unicodedata.normalize(form, character)):
            if not unicodedata.combining(part):
                marks[start:] = sorted(marks[start:], key=_combining_class)
                start = len(marks) + 1
            marks.append((part, min(index, 1)))
    marks[start:] = sorted(marks[start:], key=_combining_class)
    return marks


def _combining_class(mark: _Mark) -> int:
    return unicodedata.combining(mark[0])


def _composed(marks: Iterable[_Mark]) -> list[_Mark]:
    """Compose decomposed characters by the canonical composition algorithm (UAX #15, section 1.3)."""
    composed: list[_Mark] = []
    starter, last_class = -1, -1
    for character, change in marks:
        own_class = unicodedata.combining(character)
        if starter >= 0 and last_class < own_class:
            both = unicodedata.normalize("NFC", composed[starter][0] + character)
            if len(both) == 1:
                composed[starter] = (both, composed[starter][1] + change - 1)
                continue
        if own_class == 0:
            starter, last_class = len(composed), -1
        else:
            last_class = own_class
        composed.append((character, change))
    return composed


def _origins(changes: Iterable[int]) -> list[int]:
    """Return the origin of each character from the changes of place."""
    origins: list[int] = []
    position = 0
    for change in changes:
        if change > 0:
            origins.append(max(position - 1, 0))
        else:
            origins.append(position)
            position += 1 - change
    return origins


@dataclass(frozen=True)
class Lowercase:
    """Lower case, character by character: a capital sigma at the end of a word is σ."""

    def apply(self, text: str, *, is_first: bool = False) -> str:
        """Return the changed text."""
        return text.lower() if text.isascii() else "".join(map(str.lower, text))

    def align(self, text: str, *, is_first: bool = False) -> Aligned:
        """Return the changed text and the origin of each character."""
        lowered = [character.lower() for character in text]
        return "".join(lowered), [index for index, part in enumerate(lowered) for _ in part]


WHITE_SPACE = "".join(regex.findall(r"\s", "".join(map(chr, range(0x3001)))))
"""The characters of Unicode's property White_Space."""


@dataclass(frozen=True)
class Strip:
    """White space removed at the ends of a text."""

    left: bool
    right: bool

    def apply(self, text: str, *, is_first: bool = False) -> str:
        """Return the changed text."""
        text = text.lstrip(WHITE_SPACE) if self.left else text
        return text.rstrip(WHITE_SPACE) if self.right else text

    def align(self, text: str, *, is_first: bool = False) -> Aligned:
        """Return the changed text and the origin of each character."""
        start = len(text) - len(text.lstrip(WHITE_SPACE)) if self.left else 0
        stripped = self.apply(text)
        return stripped, list(range(start, start + len(stripped)))


@dataclass(frozen=True)
class Replace:
    """Every match of a regular expression replaced by a text.

    Args:
        pattern: in the syntax of the `regex` package; it matches at least one character.
        content: the replacement, taken as it is.
    """

    pattern: str
    content: str

    def apply(self, text: str, *, is_first: bool = False) -> str:
        """Return the changed text."""
        if regex.escape(self.pattern, special_only=True, literal_spaces=True) == self.pattern:
            return text.replace(self.pattern, self.content)
        return regex.sub(self.pattern, lambda _: self.content, text)

    def align(self, text: str, *, is_first: bool = False) -> Aligned:
        """Return the changed text and the origin of each character."""
        parts: list[str] = []
        origins: list[int] = []
        end = 0
        for match in regex.finditer(self.pattern, text):
            parts += [text[end : match.start()], self.content]
            origins += range(end, match.start())
            origins += [match.end() - 1] * len(self.content)
            end = match.end()
        return "".join([*parts, text[end:]]), origins + list(range(end, len(text)))


@dataclass(frozen=True)
class Prepend:
    """A text put before every text that is not empty.

    Args:
        content: the text.
        unless_there: not if the text begins with it.
        first_only: only before the beginning of the whole text.
    """

    content: str
    unless_there: bool = False
    first_only: bool = False

    def apply(self, text: str, *, is_first: bool = False) -> str:
        """Return the changed text."""
        return self.content + text if self._changes(text, is_first) else text

    def align(self, text: str, *, is_first: bool = False) -> Aligned:
        """Return the changed text and the origin of each character."""
        added = len(self.content) if self._changes(text, is_first) else 0
        return self.apply(text, is_first=is_first), [0] * added + list(range(len(text)))

    def _changes(self, text: str, is_first: bool) -> bool:
        is_there = self.unless_there and text.startswith(self.content)
        return bool(text) and not is_there and (is_first or not self.first_only)


@dataclass(frozen=True)
class ByteAlphabet:
    """The bytes of a text as characters of GPT-2's printable alphabet."""

    def apply(self, text: str, *, is_first: bool = False) -> str:
        """Return the changed text."""
        return token_to_text(text.encode(errors="surrogateescape"))

    def align(self, text: str, *, is_first: bool = False) -> Aligned:
        """Return the changed text and the origin of each character."""
        sizes = (len(character.encode(errors="surrogateescape")) for character in text)
        return self.apply(text), [index for index, size in enumerate(sizes) for _ in range(size)]
