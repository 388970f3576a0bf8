"""Byte-pair encoding: learning merges from a corpus' pre-tokens, and applying them to one of them.

This is the whole algorithm, on numbers instead of byte strings and without recounting;
`reference.py` says the same slowly. Text, files and special tokens in text are others' business.
"""

from __future__ import annotations

import heapq
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from transformerlm.errors import ConfigError

Vocab = dict[int, bytes]
Merges = list[tuple[bytes, bytes]]
Progress = Callable[[int], object]
"""Is called with how much has been done since its last call."""

NUM_BYTES = 256

_GAP = -1  # stands between two words: no pair reaches across it
_GONE = -2  # what was the right half of a merge: no token begins here any more
_COMPLEMENT = bytes(255 - byte for byte in range(NUM_BYTES))

_Ids = tuple[int, int]
_Entry = tuple[int, str, str, _Ids]


def train_from_counts(
    counts: Mapping[str, int] | Mapping[bytes, int],
    vocab_size: int,
    special_tokens: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[Vocab, Merges]:
    """Learn a vocabulary from a corpus given as pre-token -> how often it occurs.

    Repeat: count the adjacent pairs of tokens in all pre-tokens (overlaps count: `a a a` holds two),
    take the most frequent, of equals the greatest pair of byte strings, and make each occurrence one
    token, from left to right. Ids: 0 to 255 are the bytes, then the merges' results in order, last
    the special tokens (one that has been learned keeps the id it has).

    Fewer possible merges than `vocab_size` asks for is no error: the vocabulary is then smaller.
    Time grows with the number of places at which something merges, memory with the distinct pre-tokens.

    Args:
        counts: the result does not depend on their order.
        vocab_size: ids in all.
        progress: called with 1 after every merge.

    Raises:
        ConfigError: when the bytes and the special tokens alone are more than `vocab_size`.
    """
    tokens = [bytes([byte]) for byte in range(NUM_BYTES)]
    merges: Merges = []
    special = room_for_merges(special_tokens, tokens, vocab_size)
    corpus = _Corpus(counts)
    queue = _Queue(corpus.counts, tokens)
    while len(tokens) + len(special) < vocab_size and (pair := queue.pop()):
        left, right = tokens[pair[0]], tokens[pair[1]]
        merges.append((left, right))
        # No two merges make the same bytes: wherever those stand between two ends of tokens, the merges
        # before have divided them in the same way, so the first to join them joins them everywhere.
        tokens.append(left + right)
        special.pop(left + right, None)
        queue.push(corpus.merge(pair, merged=len(tokens) - 1))
        if progress:
            progress(1)
    return dict(enumerate([*tokens, *special])), merges


def room_for_merges(special_tokens: Sequence[str], tokens: list[bytes], vocab_size: int) -> dict[bytes, None]:
    """The special tokens that are not among `tokens`, in order, provided that there is room for them."""
    special = {token.encode(): None for token in special_tokens if token.encode() not in tokens}
    least = len(tokens) + len(special)
    if vocab_size < least:
        parts = f"{len(tokens)} bytes and {len(special)} special tokens"
        raise ConfigError(f"vocab_size: expected at least {least} ({parts}), got {vocab_size}")
    return special


class _Corpus:
    """All words as one linked list of ids, and for each pair of neighbours its count and its places.

    A place is an index into the lists below, and a pair's place is that of its left token.
    """

    def __init__(self, counts: Mapping[str, int] | Mapping[bytes, int]) -> None:
        self.ids = [_GAP]
        self.weights = [0]
        for word, count in counts.items():
            self.ids += word.encode() if isinstance(word, str) else word
            self.ids.append(_GAP)
            self.weights += [count] * (len(self.ids) - len(self.weights))
        # Arrays where a list would need an object for each number.
        self.before = array("q", range(-1, len(self.ids) - 1))
        self.after = array("q", range(1, len(self.ids) + 1))
        self.counts: defaultdict[_Ids, int] = defaultdict(int)
        self.places: defaultdict[_Ids, array[int]] = defaultdict(lambda: array("q"))
        for place, pair in enumerate(pairwise(self.ids)):
            if _GAP not in pair:
                self.counts[pair] += self.weights[place]
                self.places[pair].append(place)

    def merge(self, pair: _Ids, merged: int) -> set[_Ids]:
        """Make every occurrence of `pair` the new token `merged`, and return the pairs that arise."""
        arisen: set[_Ids] = set()
        # Places are in order, because they were entered in order: all by the scan above, or all by one
        # merge. Some are out of date: their token has become part of another since.
        for place in self.places.pop(pair):
            if (self.ids[place], self.ids[self.after[place]]) == pair:
                self._merge_at(place, merged, arisen)
        assert self.counts.pop(pair) == 0
        return arisen

    def _merge_at(self, place: int, merged: int, arisen: set[_Ids]) -> None:
        ids, counts, weight = self.ids, self.counts, self.weights[place]
        second = self.after[place]
        previous, following = self.before[place], self.after[second]
        if ids[previous] >= 0:
            counts[ids[previous], ids[place]] -= weight
            self._add((ids[previous], merged), previous, weight, arisen)
        if ids[following] >= 0:
            counts[ids[second], ids[following]] -= weight
            self._add((merged, ids[following]), place, weight, arisen)
        counts[ids[place], ids[second]] -= weight
        ids[place], ids[second] = merged, _GONE
        self.after[place], self.before[following] = following, place

    def _add(self, pair: _Ids, place: int, weight: int, arisen: set[_Ids]) -> None:
        self.counts[pair] += weight
        self.places[pair].append(place)
        arisen.add(pair)


class _Queue:
    """The pairs by falling count, of equals the greatest pair of byte strings first.

    A pair is entered once, when it arises, with the highest count that it will ever have. What it has
    lost since is noticed when its entry comes up.
    """

    def __init__(self, counts: defaultdict[_Ids, int], tokens: list[bytes]) -> None:
        self.counts, self.tokens = counts, tokens
        self.descending = [_descending(token) for token in tokens]
        self.entries = [self._entry(pair) for pair in counts]
        heapq.heapify(self.entries)

    def push(self, pairs: set[_Ids]) -> None:
        self.descending += map(_descending, self.tokens[len(self.descending) :])
        for pair in pairs:
            heapq.heappush(self.entries, self._entry(pair))

    def pop(self) -> _Ids | None:
        """The first pair, taken out; None where no pair is left."""
        while self.entries:
            negative_count, *_, pair = heapq.heappop(self.entries)
            count = self.counts[pair]
            if count == -negative_count > 0:
                return pair
            if count:
                heapq.heappush(self.entries, self._entry(pair))
        return None

    def _entry(self, pair: _Ids) -> _Entry:
        return -self.counts[pair], self.descending[pair[0]], self.descending[pair[1]], pair


def _descending(token: bytes) -> str:
    """A key that sorts byte strings the other way round, as a heap that gives its least needs it."""
    # The end, where a shorter string is less than a longer one, has to become the greatest character.
    return token.translate(_COMPLEMENT).decode("latin-1") + "\u0100"


class MergeRules(NamedTuple):
    """A list of merges on ids, made for applying it."""

    ranks: dict[tuple[int, int], int]
    """Pair of ids -> its place in the list."""
    results: list[int]
    """Place in the list -> id of the merged token."""


def apply_merges(ids: list[int], rules: MergeRules) -> list[int]:
    """The tokens of one pre-token: time and again its earliest-learned pair is merged wherever it stands.

    Takes n log n time for n bytes: a linked list of tokens, and the places of each pair by its rank.

    Args:
        ids: the pre-token's bytes, as ids.
        rules: the merges.
    """
    ranks, ids = rules.ranks, [*ids, _GAP]
    before, after = list(range(-1, len(ids) - 1)), list(range(1, len(ids) + 1))
    places: defaultdict[int, list[int]] = defaultdict(list)
    for place, pair in enumerate(pairwise(ids)):
        if pair in ranks:
            places[ranks[pair]].append(place)
    queue = sorted(places)
    while queue:
        rank = heapq.heappop(queue)
        for place in sorted(places.pop(rank)):
            second = after[place]
            if ranks.get((ids[place], ids[second])) != rank:
                continue  # out of date: the token here has changed since
            previous, following = before[place], after[second]
            ids[place], ids[second] = rules.results[rank], _GONE
            after[place], before[following] = following, place
            for left, right in ((previous, place), (place, following)):
                new = ranks.get((ids[left], ids[right])) if left >= 0 else None
                if new is not None:
                    if new not in places:
                        heapq.heappush(queue, new)
                    places[new].append(left)
    return [token for token in ids if token >= 0]
