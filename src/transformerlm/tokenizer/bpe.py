"""Byte-pair encoding in plain Python: learning merges from counted pre-tokens, applying them to a pre-token.

Equivalent to `reference.py`, on ids instead of byte strings and with counts that are updated instead of
recomputed. Dividing text into pre-tokens is in `pretokenize.py`, reading it in `train.py`.
"""

from __future__ import annotations

import heapq
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

from transformerlm.errors import ConfigError

Vocab = dict[int, bytes]
Merges = list[tuple[bytes, bytes]]
Progress = Callable[[int], object]
"""Progress callback, called with the amount of work done since its last call."""

NUM_BYTES = 256

_GAP = -1  # between two words: no pair extends across it
_GONE = -2  # was the right half of a merge: no token begins here any more
_COMPLEMENT = bytes(255 - byte for byte in range(NUM_BYTES))

_Ids = tuple[int, int]
_Entry = tuple[int, str, str, _Ids]


def train_from_counts(
    counts: Mapping[str, int] | Mapping[bytes, int],
    vocab_size: int,
    special_tokens: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[Vocab, Merges]:
    """Learn a vocabulary from a corpus given as pre-token -> count.

    Repeated step: count the adjacent pairs of tokens in all pre-tokens (overlapping ones count: `a a a` holds
    two), take the most frequent pair, of equally frequent ones the greatest pair of byte strings, and replace
    each of its occurrences by one token, from left to right.

    Ids: 0 to 255 are the bytes, then come the results of the merges in order, then the special tokens that
    are not among them. The vocabulary is smaller than `vocab_size` if no pair is left.

    Time is proportional to the number of places at which something merges, memory to the distinct pre-tokens.

    Args:
        counts: pre-token -> count; the result does not depend on their order.
        vocab_size: number of ids, bytes and special tokens included.
        special_tokens: tokens that are added at the end.
        progress: called with 1 after every merge.

    Returns:
        id -> token, and the merges in the order learned.

    Raises:
        ConfigError: the bytes and the special tokens alone exceed `vocab_size`.
    """
    tokens = [bytes([byte]) for byte in range(NUM_BYTES)]
    merges: Merges = []
    special = new_special_tokens(special_tokens, tokens, vocab_size)
    corpus = _Corpus(counts)
    queue = _Queue(corpus.counts, tokens)
    while len(tokens) + len(special) < vocab_size and (pair := queue.pop()):
        left, right = tokens[pair[0]], tokens[pair[1]]
        merges.append((left, right))
        # No two merges make the same bytes: earlier merges have divided them in the same way wherever they
        # stand between two token boundaries, so the first merge that makes them makes them everywhere.
        tokens.append(left + right)
        special.pop(left + right, None)
        queue.push(corpus.merge(pair, merged=len(tokens) - 1))
        if progress:
            progress(1)
    return dict(enumerate([*tokens, *special])), merges


def new_special_tokens(
    special_tokens: Sequence[str], tokens: list[bytes], vocab_size: int
) -> dict[bytes, None]:
    """Return the special tokens that are not in `tokens`, in order, as keys.

    Raises:
        ConfigError: `vocab_size` is too small for both.
    """
    special = {token.encode(): None for token in special_tokens if token.encode() not in tokens}
    least = len(tokens) + len(special)
    if vocab_size < least:
        parts = f"{len(tokens)} bytes and {len(special)} special tokens"
        raise ConfigError(f"vocab_size: expected at least {least} ({parts}), got {vocab_size}")
    return special


class _Corpus:
    """All words as one linked list of ids, with the count and the places of each pair of neighbours.

    A place is an index into the lists below. The place of a pair is that of its left token.
    """

    def __init__(self, counts: Mapping[str, int] | Mapping[bytes, int]) -> None:
        self.ids = [_GAP]
        self.weights = [0]
        for word, count in counts.items():
            self.ids += word.encode() if isinstance(word, str) else word
            self.ids.append(_GAP)
            self.weights += [count] * (len(self.ids) - len(self.weights))
        # Arrays instead of lists: 8 bytes per number instead of an object.
        self.before = array("q", range(-1, len(self.ids) - 1))
        self.after = array("q", range(1, len(self.ids) + 1))
        self.counts: defaultdict[_Ids, int] = defaultdict(int)
        self.places: defaultdict[_Ids, array[int]] = defaultdict(lambda: array("q"))
        for place, pair in enumerate(pairwise(self.ids)):
            if _GAP not in pair:
                self.counts[pair] += self.weights[place]
                self.places[pair].append(place)

    def merge(self, pair: _Ids, merged: int) -> set[_Ids]:
        """Replace every occurrence of `pair` by the new token `merged`, and return the new pairs."""
        new_pairs: set[_Ids] = set()
        # Places are sorted, since the scan above or a single merge has added them in order. Some are out of
        # date: their token has since become part of another.
        for place in self.places.pop(pair):
            if (self.ids[place], self.ids[self.after[place]]) == pair:
                self._merge_at(place, merged, new_pairs)
        assert self.counts.pop(pair) == 0
        return new_pairs

    def _merge_at(self, place: int, merged: int, new_pairs: set[_Ids]) -> None:
        ids, counts, weight = self.ids, self.counts, self.weights[place]
        second = self.after[place]
        previous, following = self.before[place], self.after[second]
        if ids[previous] >= 0:
            counts[ids[previous], ids[place]] -= weight
            self._add((ids[previous], merged), previous, weight, new_pairs)
        if ids[following] >= 0:
            counts[ids[second], ids[following]] -= weight
            self._add((merged, ids[following]), place, weight, new_pairs)
        counts[ids[place], ids[second]] -= weight
        ids[place], ids[second] = merged, _GONE
        self.after[place], self.before[following] = following, place

    def _add(self, pair: _Ids, place: int, weight: int, new_pairs: set[_Ids]) -> None:
        self.counts[pair] += weight
        self.places[pair].append(place)
        new_pairs.add(pair)


class _Queue:
    """Priority queue of pairs: highest count first, of equal counts the greatest pair of byte strings.

    A pair is pushed when it arises, with the highest count that it will ever have. `pop` notices an entry
    whose count has decreased since, and pushes it again.
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
        """Remove and return the first pair; None if no pair is left."""
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
    """Return a sort key that orders byte strings descending, for a heap that pops its least entry."""
    # A prefix sorts before the longer string; a final character above all others reverses that too.
    return token.translate(_COMPLEMENT).decode("latin-1") + "\u0100"


class Ranks(Protocol):
    """Pair of ids -> rank, its index in the list of merges: a dictionary, or what works ranks out."""

    def get(self, pair: _Ids, /) -> int | None:
        """Return the rank of a pair; None if it is not merged. The right one of two ids may be negative."""


class MergeRules(NamedTuple):
    """Merges on ids, prepared for `apply_merges`."""

    ranks: Ranks
    results: Sequence[int]
    """Rank -> id of the merged token."""


def apply_merges(ids: list[int], rules: MergeRules) -> list[int]:
    """Encode one pre-token: repeatedly merge the leftmost occurrence of its earliest-learned pair.

    Takes O(n log n) time for n bytes, with a linked list of tokens and a queue of places by rank.

    Args:
        ids: ids of the pre-token's bytes.
        rules: the merges.

    Returns:
        Ids of its tokens.
    """
    return [token for token in merge_in_place(ids, rules) if token >= 0]


def merge_in_place(ids: list[int], rules: MergeRules) -> list[int]:
    """Return the ids of `apply_merges`, each at the place of its first byte, negative numbers between."""
    rank_of, ids = rules.ranks.get, [*ids, _GAP]
    before, after = list(range(-1, len(ids) - 1)), list(range(1, len(ids) + 1))
    ranks = map(rank_of, pairwise(ids))
    queue = [(rank, place) for place, rank in enumerate(ranks) if rank is not None]
    heapq.heapify(queue)
    while queue:
        rank, place = heapq.heappop(queue)
        second = after[place]
        if ids[place] < 0 or rank_of((ids[place], ids[second])) != rank:
            continue  # out of date: a token here has changed since
        previous, following = before[place], after[second]
        ids[place], ids[second] = rules.results[rank], _GONE
        after[place], before[following] = following, place
        for left, right in ((previous, place), (place, following)):
            new = rank_of((ids[left], ids[right])) if left >= 0 else None
            if new is not None:
                heapq.heappush(queue, (new, left))
    return ids
