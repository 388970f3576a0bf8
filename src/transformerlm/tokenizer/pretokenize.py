"""From text to pre-tokens, the pieces within which bytes may merge, and where text may be cut in two.

Two questions are answered here and nowhere else: what a pre-token is, and at which places a text can
be divided so that both parts, treated apart, give what the whole would have given. Nothing here
knows of bytes, merges or ids.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

import regex

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import ConfigError, DataError

# Reads backwards ((?r)), so that the first match is the last cut. With GPT-2's pattern every run of
# letters or of numbers ends a pre-token, whatever follows; a run of other characters does so only
# before a number or white space, because an apostrophe and the letter after it may be one pre-token
# ('s). No cut after white space is safe: how a run of it divides depends on what follows the run.
_GPT2_CUT = r"(?r)(?<=\p{L})(?=\P{L})|(?<=\p{N})(?=\P{N})|(?<=[^\s\p{L}\p{N}])(?=[\s\p{N}])"

AllowedSpecial = Literal["all", "none"] | Collection[str]
"""Which special tokens a text may hold: all, none, or these."""

PIECE_SIZE = 1 << 16
"""Characters that are treated at a time where a text is long or comes in chunks."""

_WINDOW = 4096  # characters at the end of a text that are searched for a cut first


class Pretokenizer:
    """Divides text at special tokens, and what lies between them by a pattern.

    Args:
        pattern: a regular expression in the syntax of the `regex` package; each match is a pre-token,
            and so is each stretch between two matches: no character is ever dropped.
        special_tokens: strings that stand for themselves. Where several match at one place, the
            longest does.

    Raises:
        ConfigError: a pattern that does not compile, or an empty special token.
        DataError: a special token that is not Unicode text.
    """

    def __init__(self, pattern: str = GPT2_PATTERN, special_tokens: Sequence[str] = ()) -> None:
        self.pattern = pattern
        self.special_tokens = tuple(dict.fromkeys(special_tokens))
        if not all(map(utf8, self.special_tokens)):
            raise ConfigError("special tokens: expected text that is not empty, got an empty one")
        self._allowing: dict[frozenset[str], Pretokenizer] = {}
        self._pattern = _compile(pattern)
        self._cut = regex.compile(_GPT2_CUT) if pattern == GPT2_PATTERN else None
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._reach = max(map(len, longest_first), default=0)
        self._beginnings = {token[:end] for token in longest_first for end in range(1, len(token))}

    def allowing(self, allowed: AllowedSpecial) -> Pretokenizer:
        """The same with fewer special tokens: what is not allowed is text like the rest.

        Raises:
            ConfigError: one that is not among the special tokens.
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
        """The text in order, as segments: (segment, whether it is a special token). None is empty."""
        for start, end, is_special in self._segments(text, 0):
            yield text[start:end], is_special

    def pretokens(self, text: str) -> list[str]:
        """The pre-tokens of a text without special tokens; joined, they are the text again."""
        if self.pattern == GPT2_PATTERN:  # matches everywhere, and has no groups
            return self._pattern.findall(text)
        return list(_matches_and_gaps(self._pattern, text))

    def safe_cut(self, text: str, *, is_tail: bool = False) -> int:
        """The largest i at which `text` can be cut, whatever may follow it; 0 where there is none.

        The pre-tokens and special tokens of text[:i], followed by those of text[i:] + more, are those of
        text + more, for every `more`. With GPT-2's pattern such places come every few characters;
        of any other pattern nothing is known, and only the edges of special tokens qualify.
        An end of text that may still grow into a special token is never cut. Takes time in
        proportion to len(text) - i, wherever special tokens do not overlap without end.

        Args:
            is_tail: something comes before `text`, and may end with a part of a special token.
        """
        window = max(_WINDOW, 2 * self._reach)
        while True:
            start = self._sure_start(text, len(text) - window)
            if is_tail and start < self._reach:  # 0 where there are no special tokens
                return 0
            cut = self._last_cut(text, start)
            if cut or start == 0:
                return cut
            window *= 8

    def pieces(self, chunks: Iterable[str], size: int = PIECE_SIZE) -> Iterator[str]:
        """The text of all chunks together, in pieces of about `size` characters divided at safe cuts.

        However the text comes in chunks, treating each piece apart gives what the whole would give.
        Memory: a few pieces, or the longest stretch of text in which there is no safe cut.
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
                    # Twice what could not be cut: a text without cuts is looked at only log(n) times.
                    wanted = max(size, 2 * length)
        if length:
            yield "".join(held)

    def _segments(self, text: str, start: int) -> Iterator[tuple[int, int, bool]]:
        for match in self._special.finditer(text, start) if self._special else ():
            if match.start() > start:
                yield start, match.start(), False
            yield match.start(), match.end(), True
            start = match.end()
        if start < len(text):
            yield start, len(text), False

    def _sure_start(self, text: str, start: int) -> int:
        """The last position up to `start` near which there is no special token, so none lies across it."""
        if not self._special:
            return 0
        while start > 0 and self._special.search(text, max(0, start - self._reach), start + self._reach):
            start -= 2 * self._reach
        return max(0, start)

    def _last_cut(self, text: str, start: int) -> int:
        segments = list(self._segments(text, start))
        limit = self._undecided(text, segments)
        for begin, end, is_special in reversed(segments):
            if begin > limit:
                continue
            # An ordinary segment ends where a special token begins, but not where the text does.
            if end <= limit and (is_special or end < len(text)):
                return end
            if is_special:
                return begin
            found = self._cut and self._cut.search(text, begin, min(end, limit + 1))
            if found:
                return int(found.start())
        return 0

    def _undecided(self, text: str, segments: list[tuple[int, int, bool]]) -> int:
        """Where text begins that may still become a special token, or a longer one than it is."""
        for position in range(max(0, len(text) - self._reach + 1), len(text)):
            within = (begin < position < end for begin, end, is_special in segments if is_special)
            if text[position:] in self._beginnings and not any(within):
                return position
        return len(text)


def text_of(content: bytes) -> str:
    """The text of any bytes: UTF-8, and each byte that is not is one half of a surrogate pair (PEP 383).

    To every rule here such a byte is a character like others, and no letter, number or white space.
    """
    return content.decode(errors="surrogateescape")


def bytes_of(text: str) -> bytes:
    """The bytes of such a text: `bytes_of(text_of(content)) == content`.

    Raises:
        DataError: for half a surrogate pair that stands for no byte.
    """
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return utf8(text)  # says what is wrong


def utf8(text: str) -> bytes:
    """The bytes of a text.

    Raises:
        DataError: for half a surrogate pair, which a Python string can hold and UTF-8 cannot.
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
