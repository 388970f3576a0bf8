"""Added tokens: strings that are one id each, wherever a text has them, and what surrounds them.

Source: the flags and the search are those of Hugging Face's `tokenizers` (`AddedToken`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import regex

_MAX_DEPTH = 40  # of nested groups; Python's compiler of patterns recurses


class AddedToken(NamedTuple):
    """A string that is one id. It is found before a text is normalized and divided."""

    content: str
    single_word: bool = False
    """Only found where no letter or digit is directly before or after it."""
    lstrip: bool = False
    """White space before it is part of it."""
    rstrip: bool = False
    """White space after it is part of it."""
    normalized: bool = False
    """Searched for in normalized text, in normalized form; others come first, in the text as it is."""
    special: bool = True
    """A control token: `allowed_special` concerns it, and decoding may leave it out."""

    @property
    def is_plain(self) -> bool:
        """True if it is found wherever it stands, and alone."""
        return not (self.single_word or self.lstrip or self.rstrip)


class Found(NamedTuple):
    """A part of a text: an added token, or the text between two of them."""

    start: int
    """Index of its first character."""
    end: int
    token: AddedToken | None


class Finder:
    """Searches a text for added tokens, from left to right, the longest first where several begin.

    Args:
        tokens: what is searched for, as (text, token); the text is that of the token or its normalized form.
    """

    def __init__(self, tokens: Iterable[tuple[str, AddedToken]]) -> None:
        self._tokens = {text: token for text, token in tokens if text}
        self._pattern = re.compile(longest_match_pattern(self._tokens)) if self._tokens else None

    def find(self, text: str, *, allowed: frozenset[str] | None = None) -> Iterator[Found]:
        """Yield the parts of a text in order; none is empty unless the text is.

        Args:
            allowed: contents of the special tokens that count; None: all. Others are ordinary text, with all
                that a search for all tokens would have found there.
        """
        end = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            token = self._tokens[match.group()]
            if token.special and allowed is not None and token.content not in allowed:
                continue
            if token.single_word and _is_within_word(text, *match.span()):
                continue
            start, stop = match.span()
            if token.lstrip:
                start = end + len(_rstripped(text[end:start]))
            if token.rstrip:
                stop = _SPACE.match(text, stop).end()  # type: ignore[union-attr]  # matches the empty string
            if start >= stop:
                continue  # white space that the token before it has taken
            if end < start:
                yield Found(end, start, None)
            yield Found(start, stop, token)
            end = stop
        if end < len(text):
            yield Found(end, len(text), None)


def longest_match_pattern(texts: Iterable[str]) -> str:
    """Return a regular expression that matches the longest of the texts at a place, in the syntax of `re`.

    Common beginnings are tested once: with thousands of texts a plain alternation tries each of them at each
    place.
    """
    ordered = sorted(set(texts))
    return _branches(ordered, 0, len(ordered), 0, 0)


def _branches(texts: Sequence[str], first: int, last: int, at: int, depth: int) -> str:
    """Return the pattern for the rests, from index `at`, of sorted texts[first:last], which begin alike."""
    if depth >= _MAX_DEPTH:
        rests = [text[at:] for text in texts[first:last]]
        return f"(?:{'|'.join(map(re.escape, sorted(rests, key=len, reverse=True)))})"
    is_end = len(texts[first]) == at
    branches: list[str] = []
    start = first + is_end
    while start < last:
        stop = start + 1
        while stop < last and texts[stop][at] == texts[start][at]:
            stop += 1
        common = common_length(texts[start], texts[stop - 1])
        rest = "" if stop == start + 1 else _branches(texts, start, stop, common, depth + 1)
        branches.append(re.escape(texts[start][at:common]) + rest)
        start = stop
    joined = "|".join(branches)
    return f"(?:{joined}){'?' if is_end else ''}" if len(branches) > 1 or is_end else joined


def common_length(one: str, other: str) -> int:
    """Return the length of the common beginning; of the first and last of sorted texts, that of all."""
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return length


# A character of a word as Rust's regular expressions have it (UTS #18, annex C).
WORD_CHARACTER = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}"
_WORD = regex.compile(f"[{WORD_CHARACTER}]")
_SPACE = regex.compile(r"\s*")
_SPACE_AT_END = regex.compile(r"(?r)\s*")


def _is_within_word(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start] if start else "", text[end : end + 1]
    return bool(_WORD.match(before) or _WORD.match(after))


def _rstripped(text: str) -> str:
    match = _SPACE_AT_END.match(text)
    assert match  # the pattern matches the empty string too
    return text[: match.start()]
