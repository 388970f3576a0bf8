"""Verification of learned merges on their corpus, for any trainer: no rule for ties is assumed.

Shares no code with the trainers: it works on byte strings instead of ids and on whole words.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from transformerlm.tokenizer.reference import Pair, merge_word, split_bytes


@dataclass(frozen=True)
class WrongMerge:
    """A merge that was not one of the most frequent pairs at its position in the list."""

    index: int
    """Its place in the list, from 0."""
    pair: Pair
    count: int
    """Number of occurrences of the pair at that time."""
    better_pair: Pair
    better_count: int

    def __str__(self) -> str:
        better = f"while {self.better_pair} occurs {self.better_count} times"
        return f"merge {self.index} is of {self.pair}, which occurs {self.count} times, {better}"


def verify_merges(
    counts: Mapping[str, int] | Mapping[bytes, int],
    merges: Sequence[Pair],
    progress: Callable[[int], object] | None = None,
) -> WrongMerge | None:
    """Replay merges on a corpus given as pre-token -> count and return the first wrong one, None without.

    A merge is right if no other pair occurs more often at that time. The order of equally frequent pairs is
    the trainer's choice.

    Args:
        progress: called with 1 after every right merge.
    """
    replay = _Replay(counts)
    for index, pair in enumerate(merges):
        best = replay.most_frequent()
        count, best_count = replay.pairs[pair], replay.pairs[best]
        if count < best_count or not count:
            return WrongMerge(index, pair, count, best, best_count)
        replay.merge(pair)
        if progress:
            progress(1)
    return None


class _Replay:
    """The words of a corpus while merges are applied, and the count of each pair in them."""

    def __init__(self, counts: Mapping[str, int] | Mapping[bytes, int]) -> None:
        self.words = [split_bytes(text) for text in counts]
        self.weights = list(counts.values())
        self.pairs: Counter[Pair] = Counter()
        self.words_with: defaultdict[Pair, set[int]] = defaultdict(set)
        for index in range(len(self.words)):
            self._count(index, 1)
        self.queue = [(-count, pair) for pair, count in self.pairs.items()]
        heapq.heapify(self.queue)

    def most_frequent(self) -> Pair:
        """Return one of the most frequent pairs; two empty strings if no pair is left."""
        while self.queue and self.pairs[self.queue[0][1]] != -self.queue[0][0]:
            heapq.heappop(self.queue)  # out of date: pushed again when its count changed
        return self.queue[0][1] if self.queue else (b"", b"")

    def merge(self, pair: Pair) -> None:
        changed: set[Pair] = set()
        for index in list(self.words_with[pair]):
            changed |= self._count(index, -1)
            self.words[index] = merge_word(self.words[index], pair)
            changed |= self._count(index, 1)
        for other in changed:
            heapq.heappush(self.queue, (-self.pairs[other], other))

    def _count(self, index: int, sign: int) -> set[Pair]:
        """Add (sign 1) or subtract (-1) the pairs of a word, and return them."""
        pairs = list(pairwise(self.words[index]))
        weight = sign * self.weights[index]
        for pair in pairs:
            self.pairs[pair] += weight
        note = set.add if sign > 0 else set.discard
        different = set(pairs)
        for pair in different:
            note(self.words_with[pair], index)
        return different
