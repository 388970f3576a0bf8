"""Pre-tokenization: dividing text into the pieces within which bytes may merge, and finding safe cuts.

A cut of a text is safe if encoding both parts separately gives the ids of the whole. This module is
independent of merges and ids.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

import regex

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import ConfigError, DataError
from transformerlm.tokenizer.added_tokens import common_length, longest_match_pattern
from transformerlm.tokenizer.patterns.compiled import compile_cuts
from transformerlm.tokenizer.splits import Split, as_pattern, split_text, splits_of

# Searches backwards ((?r)): the first match is the last cut. With GPT-2's pattern a pre-token ends wherever a
# run of letters or of numbers ends. Where a run of other characters ends, one ends only before a number or
# white space, since an apostrophe and the letter after it may be one pre-token ('s). A cut after white space
# is not safe: the division of a run of it depends on what follows the run.
_GPT2_CUT = regex.compile(r"(?r)(?<=\p{L})(?=\P{L})|(?<=\p{N})(?=\P{N})|(?<=[^\s\p{L}\p{N}])(?=[\s\p{N}])")

AllowedSpecial = Literal["all", "none"] | Collection[str]
"""Special tokens that are recognised in a text: "all", "none", or a collection of them."""

PIECE_SIZE = 1 << 16
"""Characters that are processed at a time where a text is long or comes in chunks."""

_WINDOW = 4096  # characters at the end of a text in which a cut is searched first


class Pretokenizer:
    """Divides text at special tokens, and the text between them by regular expressions.

    Args:
        pattern: regular expression in the syntax of the `regex` package: each match is a pre-token, and so
            is the text between two matches. Or several splits, each of which divides the parts that the one
            before it has made (`splits.split_text`). Only a split that removes its matches drops characters:
            the text of the ids is then not the text that was encoded.
        special_tokens: strings that are one token each. Where several match at one place, the longest is
            taken.

    Raises:
        ConfigError: a pattern that does not compile, an empty special token, or one in place of a list.
        DataError: a special token with an unpaired surrogate.
    """

    def __init__(
        self, pattern: str | Sequence[Split] = GPT2_PATTERN, special_tokens: Sequence[str] = ()
    ) -> None:
        if isinstance(special_tokens, str):  # would be a token for each character
            raise ConfigError(f"special tokens: expected a list of them, got {special_tokens!r:.60}")
        self.pattern = as_pattern(pattern)
        self.special_tokens = tuple(dict.fromkeys(special_tokens))
        if not all(map(utf8, self.special_tokens)):
            raise ConfigError("special tokens: expected text that is not empty, got an empty one")
        self._allowing: dict[frozenset[str], Pretokenizer] = {}
        self._patterns = [_compile(split.pattern) for split in splits_of(self.pattern)]
        self._reach = max(map(len, self.special_tokens), default=0)

    # Thousands of special tokens take a while, and the kernels have a search of their own.
    @functools.cached_property
    def _special(self) -> re.Pattern[str] | None:
        return re.compile(longest_match_pattern(self.special_tokens)) if self.special_tokens else None

    @functools.cached_property
    def _common_beginning(self) -> str:
        tokens = self.special_tokens
        return tokens[0][: common_length(min(tokens), max(tokens))] if tokens else ""

    @functools.cached_property
    def _beginnings(self) -> set[str]:
        return {token[:end] for token in self.special_tokens for end in range(1, len(token))}

    def allowing(self, allowed: AllowedSpecial) -> Pretokenizer:
        """Return a pre-tokenizer that recognises only the allowed special tokens; others are ordinary text.

        Raises:
            ConfigError: `allowed` names a string that is not a special token.
        """
        if allowed == "all":
            return self
        if isinstance(allowed, str) and allowed != "none":
            raise ConfigError(f'allowed_special: expected "all", "none" or special tokens, got {allowed!r}')
        tokens = frozenset(() if allowed == "none" else allowed)
        if tokens not in self._allowing:
            unknown = sorted(tokens.difference(self.special_tokens))
            if unknown:
                known = sorted(self.special_tokens)
                raise ConfigError(f"allowed_special: expected some of {known}, got {unknown[0]!r}")
            self._allowing[tokens] = Pretokenizer(self.pattern, sorted(tokens))
        return self._allowing[tokens]

    def split_special(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield the segments of a text in order, as (segment, is_special). No segment is empty."""
        for start, end, is_special in self._segments(text, 0):
            yield text[start:end], is_special

    def pretokens(self, text: str) -> list[str]:
        """Return the pre-tokens of a text without special tokens; joined, they are the text that is kept."""
        if self.pattern == GPT2_PATTERN:  # leaves nothing between its matches and has no groups
            return self._patterns[0].findall(text)
        if isinstance(self.pattern, str):
            return list(_matches_and_gaps(self._patterns[0], text))
        return split_text(self.pattern, text)

    def safe_cut(self, text: str, *, is_tail: bool = False) -> int:
        """Return the last safe cut of a text that may continue, 0 if there is none.

        For the returned index i and every continuation `more`, the pre-tokens and special tokens of text[:i]
        and of text[i:] + more are together those of text + more. With the patterns of known tokenizers there
        is a safe cut every few characters: between characters that every match divides, which is worked out
        from the pattern's automaton. For a pattern without an automaton (`patterns.compile_cuts`) only the
        ends of special tokens are safe cuts. Nothing is cut that may be the beginning of a special token.
        Takes time proportional to len(text) - i, except where special tokens overlap in a long row.

        Args:
            is_tail: `text` is the end of a longer text, and may begin within a special token.
        """
        window = max(_WINDOW, 2 * self._reach)
        while True:
            start = self._start_outside_special(text, len(text) - window)
            if is_tail and start < self._reach:  # 0 where there are no special tokens
                return 0
            cut = self._last_cut(text, start)
            if cut or start == 0:
                return cut
            window *= 8

    def pieces(self, chunks: Iterable[str], size: int = PIECE_SIZE) -> Iterator[str]:
        """Yield the text of all chunks in pieces of about `size` characters, divided at safe cuts.

        Encoding each piece separately gives the ids of the whole text, wherever the chunks are divided.
        Memory: a few pieces, or the longest part of the text without a safe cut.
        """
        held: list[str] = []
        length, wanted = 0, size
        for chunk in chunks:
            for start in range(0, len(chunk), size):
                held.append(chunk[start : start + size])
                length += len(held[-1])
                if length >= wanted:
                    text = "".join(held)
                    cut = self.safe_cut(text)
                    if cut:
                        yield text[:cut]
                    held, length = [text[cut:]], len(text) - cut
                    # Wait for twice the text that could not be cut: it is searched only log(n) times.
                    wanted = max(size, 2 * length)
        if length:
            yield "".join(held)

    def _segments(self, text: str, start: int) -> Iterator[tuple[int, int, bool]]:
        may_occur = text.find(self._common_beginning, start) >= 0  # else the search is not even prepared
        for match in self._special.finditer(text, start) if may_occur and self._special else ():
            if match.start() > start:
                yield start, match.start(), False
            yield match.start(), match.end(), True
            start = match.end()
        if start < len(text):
            yield start, len(text), False

    def _start_outside_special(self, text: str, start: int) -> int:
        """Return the last position up to `start` that is not within a special token."""
        if not self._special:
            return 0
        while start > 0 and self._special.search(text, max(0, start - self._reach), start + self._reach):
            start -= 2 * self._reach
        return max(0, start)

    def _last_cut(self, text: str, start: int) -> int:
        segments = list(self._segments(text, start))
        limit = self._ambiguous_from(text, segments)
        for begin, end, is_special in reversed(segments):
            if begin > limit:
                continue
            # The end of an ordinary segment is final before a special token, but not at the end of the text.
            if end <= limit and (is_special or end < len(text)):
                return end
            if is_special:
                return begin
            cut = self._cut_within(text[begin : min(end, limit + 1)])
            if cut:
                return begin + cut
        return 0

    def _cut_within(self, text: str) -> int:
        """Return the last safe cut within a text without special tokens, 0 if there is none."""
        if self.pattern == GPT2_PATTERN:
            found = _GPT2_CUT.search(text)
            return int(found.start()) if found else 0
        compiled = compile_cuts(self.pattern)
        return compiled.last_cut(text) if compiled else 0

    def _ambiguous_from(self, text: str, segments: list[tuple[int, int, bool]]) -> int:
        """Return the start of the end of `text` that may be the beginning of a special token, or a longer
        one."""
        for position in range(max(0, len(text) - self._reach + 1), len(text)):
            within = (begin < position < end for begin, end, is_special in segments if is_special)
            if text[position:] in self._beginnings and not any(within):
                return position
        return len(text)


def text_of(content: bytes) -> str:
    """Decode any bytes: UTF-8, with each invalid byte as a surrogate (PEP 383, "surrogateescape").

    To a pattern such a byte is a character that is not a letter, a number or white space.
    """
    return content.decode(errors="surrogateescape")


def bytes_of(text: str) -> bytes:
    """Encode a text from `text_of`: `bytes_of(text_of(content)) == content`.

    Raises:
        DataError: a surrogate that stands for no byte.
    """
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return utf8(text)  # raises a DataError that names the character


def utf8(text: str) -> bytes:
    """Encode a text as UTF-8.

    Raises:
        DataError: an unpaired surrogate, which a Python string can hold and UTF-8 cannot.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        character = text[error.start]
        raise DataError(f"{character!a} in a text: half of a surrogate pair is no character") from None


def _compile(pattern: str) -> regex.Pattern[str]:
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise ConfigError(f"pre-tokenisation pattern: {error}: {pattern}") from None


def _matches_and_gaps(pattern: regex.Pattern[str], text: str) -> Iterator[str]:
    end = 0
    for match in pattern.finditer(text):
        if match.start() > end:
            yield text[end : match.start()]
        if match.end() > match.start():
            yield match.group()
        end = match.end()
    if end < len(text):
        yield text[end:]
