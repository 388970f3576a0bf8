"""Runs of tokens of one token array that stand in another: the leakage between training and validation.

A token of the validation text is leaked if it is in a run of at least `length` tokens that stands in the
training text too, within one document on both sides. Windows of `length` tokens are told by a hash, and every
hash that agrees is verified by comparing the tokens, so that the result is exact.

Memory is some dozens of bytes per validation token of a block (BLOCK_TOKENS); the training tokens are read
once for each block, in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transformerlm.data.shingles import Hashes, mixed

Tokens = NDArray[np.integer[Any]]
Positions = NDArray[np.int64]

MIN_LEAK_TOKENS = 50
"""Length of the shortest run that counts as a leak, unless another is asked for."""
BLOCK_TOKENS = 2**22
"""Validation tokens whose windows are in memory at a time."""
PART_TOKENS = 2**20
"""Training tokens that are hashed at a time."""

_FILTER_BITS = 26  # a table of 64 MiB that rejects most hashes without a search
_BASE = 0x9E3779B97F4A7C15 | 1


class Match(NamedTuple):
    """A run of tokens that is in both texts."""

    position: int
    """Its first token in the validation text."""
    train_position: int
    num_tokens: int


@dataclass(frozen=True, eq=False)
class Leaks:
    """The leaked tokens of a validation text."""

    length: int
    """Length of the shortest run that counts."""
    is_leaked: NDArray[np.bool_]
    """`[validation tokens]`"""
    sources: Positions
    """For the window that begins at a token, the first place in the training text where it stands; -1: it
    does not. `[validation tokens]`"""

    def runs(self) -> list[tuple[int, int]]:
        """Return the ranges of leaked tokens, end exclusive, in order."""
        edges = np.flatnonzero(np.diff(self.is_leaked.astype(np.int8), prepend=0, append=0))
        return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))

    def main_match(self, train: Tokens, val: Tokens, run: tuple[int, int], end_id: int | None) -> Match:
        """Return the match that most windows of a run of leaked tokens are from, from its first window on.

        A run may be put together from several places of the training text.
        """
        starts = np.arange(run[0], run[1] - self.length + 1)
        starts = starts[self.sources[starts] >= 0]
        offsets = self.sources[starts] - starts
        values, firsts, counts = np.unique(offsets, return_index=True, return_counts=True)
        best = np.lexsort((values, -counts))[0]
        position = int(starts[firsts[best]])
        return extended(train, val, int(position + values[best]), position, run[1], end_id)


def extended(
    train: Tokens, val: Tokens, train_position: int, position: int, stop: int, end_id: int | None
) -> Match:
    """Return the run from two positions on while the tokens agree, up to `stop` or a document's end."""
    limit = min(stop - position, len(train) - train_position)
    ours = val[position : position + limit]
    differs = ours != train[train_position : train_position + limit]
    if end_id is not None:
        differs |= ours == end_id
    found = np.flatnonzero(differs)
    return Match(position, train_position, int(found[0]) if len(found) else limit)


def find_leaks(
    train: Tokens,
    val: Tokens,
    *,
    end_id: int | None,
    length: int = MIN_LEAK_TOKENS,
    progress: Callable[[int], object] = lambda num_tokens: None,
    block_tokens: int = BLOCK_TOKENS,
    part_tokens: int = PART_TOKENS,
) -> Leaks:
    """Find every run of at least `length` validation tokens that stands in the training text.

    Args:
        train: `[training tokens]`; a mapped file is read in parts.
        val: `[validation tokens]`.
        end_id: the token between documents, which is in no run; None: nothing marks their ends, and runs may
            reach over them.
        progress: called with the number of training tokens that were read.
    """
    is_leaked, sources = np.zeros(len(val), np.bool_), np.full(len(val), -1, np.int64)
    for start in range(0, max(0, len(val) - length + 1), block_tokens):
        stop = min(start + block_tokens + length - 1, len(val))
        windows = _Windows.of(np.asarray(val[start:stop]), end_id, length)
        for first, part in _parts(train, part_tokens, length):
            windows.search(part, first)
            progress(min(part_tokens, len(part)))
        found = windows.sources_of_all()
        sources[start : start + len(found)] = found
    changes = np.zeros(len(val) + 1, np.int64)
    begins = np.flatnonzero(sources >= 0)
    changes[begins] += 1
    np.add.at(changes, begins + length, -1)
    is_leaked = changes[:-1].cumsum() > 0
    return Leaks(length, is_leaked, sources)


def _parts(tokens: Tokens, size: int, length: int) -> Iterator[tuple[int, Tokens]]:
    """Yield parts of an array with their positions; they overlap, so that each window is in one of them."""
    for first in range(0, max(0, len(tokens) - length + 1), size):
        yield first, np.asarray(tokens[first : first + size + length - 1])


def window_hashes(tokens: Tokens, length: int) -> Hashes:
    """Return a hash of every `length` tokens in a row, `[len(tokens) - length + 1]`: equal for equal tokens.

    It is sum of mixed(token[i + k]) * base^k modulo 2^64, from running sums: base is odd, so that it has an
    inverse, and the sum over any window can be moved to the beginning of the powers.
    """
    number = len(tokens) - length + 1
    if number < 1:
        return np.array([], np.uint64)
    powers = _powers(_BASE, len(tokens))
    terms = mixed(tokens.astype(np.uint64) + np.uint64(1)) * powers
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    inverses = _powers(pow(_BASE, -1, 2**64), number)
    return mixed((sums[length:] - sums[:number]) * inverses)


def _powers(base: int, number: int) -> Hashes:
    factors = np.full(number, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _within_documents(tokens: Tokens, end_id: int | None, length: int) -> NDArray[np.bool_]:
    """Return for each window whether it is within one document."""
    number = max(0, len(tokens) - length + 1)
    if end_id is None:
        return np.ones(number, np.bool_)
    ends = np.concatenate([[0], np.cumsum(tokens == end_id)])
    found: NDArray[np.bool_] = ends[length : length + number] == ends[:number]
    return found


@dataclass(eq=False)
class _Windows:
    """The windows of a block of validation tokens, by hash, and where each stands in the training text."""

    tokens: Tokens
    length: int
    end_id: int | None
    representatives: Positions
    """For each window the first window with the same tokens; -1 for one across documents."""
    hashes: Hashes
    """Of the representatives, sorted; different windows may have the same."""
    positions: Positions
    """The representatives in the order of `hashes`."""
    sources: Positions
    """For each entry of `positions`, the first place in the training text, or -1."""
    filter: NDArray[np.bool_]
    """Upper bits of a hash -> False if no representative has them."""

    @classmethod
    def of(cls, tokens: Tokens, end_id: int | None, length: int) -> _Windows:
        hashes = window_hashes(tokens, length)
        within = np.flatnonzero(_within_documents(tokens, end_id, length))
        representatives = np.full(len(hashes), -1, np.int64)
        rest = within
        # Normally once: windows of the same hash but other tokens are represented in a further round.
        while len(rest):
            _, firsts, inverse = np.unique(hashes[rest], return_index=True, return_inverse=True)
            candidates = rest[firsts][inverse]
            same = _are_equal(tokens, rest, tokens, candidates, length)
            representatives[rest[same]] = candidates[same]
            rest = rest[~same]
        positions = np.flatnonzero(representatives == np.arange(len(hashes)))
        positions = positions[np.argsort(hashes[positions], kind="stable")]
        marks = np.zeros(2**_FILTER_BITS, np.bool_)
        marks[hashes[positions] >> np.uint64(64 - _FILTER_BITS)] = True
        none = np.full(len(positions), -1, np.int64)
        return cls(tokens, length, end_id, representatives, hashes[positions], positions, none, marks)

    def search(self, part: Tokens, first: int) -> None:
        """Look for the windows in a part of the training text that begins at its token `first`."""
        hashes = window_hashes(part, self.length)
        places = np.flatnonzero(self.filter[hashes >> np.uint64(64 - _FILTER_BITS)])
        entries = np.searchsorted(self.hashes, hashes[places])
        while len(places):
            is_hit = entries < len(self.hashes)
            is_hit[is_hit] = self.hashes[entries[is_hit]] == hashes[places[is_hit]]
            places, entries = places[is_hit], entries[is_hit]
            is_new = self.sources[entries] < 0
            self._verify(part, first, places[is_new], entries[is_new])
            entries = entries + 1  # another window with the same hash, of which there is hardly ever one

    def _verify(self, part: Tokens, first: int, places: Positions, entries: Positions) -> None:
        # Of the places of one window the first is enough, if it is the window; else the next is looked at.
        while len(places):
            unique, firsts = np.unique(entries, return_index=True)
            own = places[firsts]
            same = _are_equal(part, own, self.tokens, self.positions[unique], self.length)
            self.sources[unique[same]] = own[same] + first
            remaining = self.sources[entries] < 0
            remaining[firsts] = False
            places, entries = places[remaining], entries[remaining]

    def sources_of_all(self) -> Positions:
        """Return the place in the training text of every window, or -1."""
        by_position = np.full(len(self.representatives), -1, np.int64)
        by_position[self.positions] = self.sources
        return np.where(self.representatives >= 0, by_position[self.representatives], -1)


def _are_equal(
    one: Tokens, starts: Positions, other: Tokens, other_starts: Positions, length: int
) -> NDArray[np.bool_]:
    """Return for each pair of windows whether their tokens are the same."""
    same = np.ones(len(starts), np.bool_)
    for step in range(length):
        same &= one[starts + step] == other[other_starts + step]
    return same
