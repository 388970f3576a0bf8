"""Which merge, if any, makes each token out of its own bytes: the encoding of many words at once, in NumPy.

A merge of a and b is applied in a text only where the merges within the bytes of ab have made just a and b.
No merge that goes over the border of these bytes has been applied then, so that they have merged as if they
stood alone. Hence the only merge that ever makes a token is the last one of the token's own bytes, and merges
that are the last of none are never applied: a list without them gives the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transformerlm.tokenizer.bpe import NUM_BYTES, Merges

Array = NDArray[Any]

UNMADE, BYTE = -1, -2
_NO_RANK = np.iinfo(np.int64).max


def last_merges(tokens: Sequence[bytes], merges: Merges) -> Array:
    """Return the index of the merge that makes each token out of its bytes, `[num_tokens]`.

    UNMADE for a token whose bytes are not merged to one token, BYTE for one that is a byte.

    Args:
        tokens: none is empty.
        merges: in the order in which they were learned; each pair once.
    """
    table = _MergeTable(merges)
    found = np.full(len(tokens), UNMADE, np.int64)
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    found[lengths == 1] = BYTE
    last = found.copy()
    active = np.flatnonzero(lengths > 1)
    ids = np.frombuffer(b"".join(token for token in tokens if len(token) > 1), np.uint8).astype(np.int64)
    words = np.repeat(active, lengths[active])
    ranks = table.ranks_of_bytes(ids, words)
    while len(ids):
        starts = np.flatnonzero(np.r_[True, words[1:] != words[:-1]])
        sizes = np.diff(np.append(starts, len(words)))
        lowest = np.minimum.reduceat(ranks, starts)
        if lowest.max() == _NO_RANK:  # these words are at their end
            found[words[starts[sizes == 1]]] = last[words[starts[sizes == 1]]]
            goes_on = np.repeat(lowest < _NO_RANK, sizes)
            ids, words, ranks = ids[goes_on], words[goes_on], ranks[goes_on]
            continue
        places = _first_of_each(ranks == np.repeat(lowest, sizes), words)
        last[words[places]] = lowest
        ids[places] = table.results[lowest]
        is_kept = np.ones(len(ids), bool)
        is_kept[places + 1] = False
        ids, words, ranks = ids[is_kept], words[is_kept], ranks[is_kept]
        places -= np.arange(len(places))  # one id before each of them has been taken out for each merge
        changed = np.concatenate([places, places[places > 0] - 1])
        ranks[changed] = table.ranks_at(ids, words, changed)
    return found


def _first_of_each(marks: Array, words: Array) -> Array:
    """Return the place of the first mark of each word."""
    places = np.flatnonzero(marks)
    owners = words[places]
    return places[np.r_[True, owners[1:] != owners[:-1]]]


def reachable_merges(merges: Merges) -> Merges:
    """Return the merges that are ever applied, in order."""
    results = list(dict.fromkeys(left + right for left, right in merges))
    return [merges[index] for index in sorted(set(last_merges(results, merges).tolist()) - {UNMADE, BYTE})]


class _MergeTable:
    """Merges by the ids of their parts. Bytes are their own ids."""

    def __init__(self, merges: Merges) -> None:
        lefts, rights = [left for left, _ in merges], [right for _, right in merges]
        results = [left + right for left, right in merges]
        id_of = {bytes([byte]): byte for byte in range(NUM_BYTES)}
        others = set(lefts).union(rights, results) - id_of.keys()
        id_of.update(zip(others, range(NUM_BYTES, NUM_BYTES + len(others)), strict=True))
        left, right, self.results = (
            np.fromiter(map(id_of.__getitem__, part), np.int64, len(merges))
            for part in (lefts, rights, results)
        )
        keys = left << 32 | right
        self._order = np.argsort(keys)
        self._keys = np.append(keys[self._order], _NO_RANK)
        self._of_bytes = np.full(NUM_BYTES**2, _NO_RANK)
        are_bytes = np.flatnonzero((left < NUM_BYTES) & (right < NUM_BYTES))
        self._of_bytes[left[are_bytes] * NUM_BYTES + right[are_bytes]] = are_bytes

    def ranks_of_bytes(self, ids: Array, words: Array) -> Array:
        """Return the rank of each byte with the next byte of its word; _NO_RANK without a merge."""
        ranks = np.full(len(ids), _NO_RANK)
        ranks[:-1] = self._of_bytes[ids[:-1] * NUM_BYTES + ids[1:]]
        ranks[:-1][words[:-1] != words[1:]] = _NO_RANK
        return ranks

    def ranks_at(self, ids: Array, words: Array, places: Array) -> Array:
        """Return the rank of the id at each place with the next id of its word; _NO_RANK without a merge.

        Args:
            ids: of the tokens of all words in order.
            words: the word of each.
            places: indices into these.
        """
        following = np.minimum(places + 1, len(ids) - 1)
        keys = ids[places] << 32 | ids[following]
        index = np.searchsorted(self._keys, keys)
        is_merge = (self._keys[index] == keys) & (words[places] == words[following]) & (following > places)
        ranks = np.full(len(places), _NO_RANK)
        ranks[is_merge] = self._order[index[is_merge]]
        return ranks
