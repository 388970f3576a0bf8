"""Which merge, if any, makes each token out of its own bytes: the encoding of many words at once, in NumPy.

A merge of a and b is applied in a text only where the merges within the bytes of ab have made just a and b.
No merge that goes over the border of these bytes has been applied then, so that they have merged as if they
stood alone. Hence the only merge that ever makes a token is the last one of the token's own bytes, and merges
that are the last of none are never applied: a list without them gives the same ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transformerlm.tokenizer.bpe import NUM_BYTES, MergeRules, Merges
from transformerlm.tokenizer.token_table import ABSENT, NumberTable, Strings, TokenTable

Array = NDArray[Any]

UNMADE, BYTE = -1, -2
_NO_RANK = ABSENT


class MergeIds(NamedTuple):
    """Merges by the ids of their tokens, `[num_merges]` each, in the order in which they were learned."""

    left: Array
    right: Array
    result: Array

    @property
    def keys(self) -> Array:
        """The pairs as numbers, left id << 32 | right id."""
        return self.left << 32 | self.right

    @property
    def made(self) -> set[int]:
        """The ids of their results."""
        return set(self.result.tolist())

    @classmethod
    def of(cls, merges: Merges, id_of: Mapping[bytes, int]) -> MergeIds:
        """Return the ids of pairs of bytes."""
        parts = [left for left, _ in merges], [right for _, right in merges], map(b"".join, merges)
        return cls(*(np.fromiter(map(id_of.__getitem__, part), np.int64, len(merges)) for part in parts))

    def pairs(self, vocab: Mapping[int, bytes]) -> Merges:
        """Return the parts as bytes."""
        lefts, rights = (map(vocab.__getitem__, part.tolist()) for part in (self.left, self.right))
        return list(zip(lefts, rights, strict=True))

    def rules(self) -> MergeRules:
        """Return the merges as `apply_merges` takes them."""
        pairs = zip(self.left.tolist(), self.right.tolist(), strict=True)
        return MergeRules(dict(zip(pairs, range(len(self.result)), strict=True)), self.result.tolist())


def merges_of_lines(content: Array, spaces: Array, ends: Array, tokens: TokenTable) -> MergeIds | None:
    """Return the merges of lines of two tokens with a space between them.

    None if a line has another form, a token is not found or a pair occurs twice: the caller finds out where.

    Args:
        content: of all lines, with padding as in `Strings`.
        spaces: places of the spaces in it, and of the ends of lines.
        ends: see there.
        tokens: ids of the tokens as they are spelled in the lines.
    """
    if len(spaces) != len(ends):
        return None
    in_turn = np.column_stack([spaces, ends]).ravel()
    parts = Strings.between(content, in_turn)
    if parts.sizes.min(initial=1) <= 0:  # two spaces in a line, or one at an end
        return None
    joined = Strings.between(np.delete(content, spaces), ends - np.arange(1, len(ends) + 1))
    ids = tokens.find(parts)
    found = MergeIds(ids[::2], ids[1::2], tokens.find_in_order(joined))
    if min(part.min(initial=0) for part in found) < 0:
        return None
    # Pairs with different results differ: in most lists the ids of these rise.
    are_different = (np.diff(found.result) > 0).all() or np.diff(np.sort(found.keys)).all()
    return found if are_different else None


def last_merges(tokens: Sequence[bytes], merges: Merges) -> Array:
    """Return the index of the merge that makes each token out of its bytes, `[num_tokens]`.

    UNMADE for a token whose bytes are not merged to one token, BYTE for one that is a byte.

    Args:
        tokens: none is empty.
        merges: in the order in which they were learned; each pair once.
    """
    every_byte = [bytes([byte]) for byte in range(NUM_BYTES)]
    known = dict.fromkeys([*every_byte, *itertools.chain(*merges), *map(b"".join, merges)])
    id_of = {token: number for number, token in enumerate(known)}
    last = last_merges_by_id(dict(enumerate(id_of)), MergeIds.of(merges, id_of), np.arange(NUM_BYTES))
    return np.append(last, UNMADE)[[id_of.get(token, -1) for token in tokens]]


def last_merges_by_id(tokens: Mapping[int, bytes], merges: MergeIds, byte_ids: Array) -> Array:
    """Return the index of the merge that makes each token, as `last_merges` does; `[largest id + 1]`.

    Args:
        tokens: id -> token, of all ids that the merges have.
        merges: each pair once.
        byte_ids: byte -> id, `[256]`.
    """
    table = _RankTable(merges)
    last, uncertain = _made_in_order(tokens, merges, byte_ids, table)
    if len(uncertain):
        content = [tokens[number] for number in uncertain.tolist()]
        if (_encoded(content, merges, byte_ids, table) != UNMADE).any():
            numbers = np.fromiter(tokens, np.int64)
            last[numbers] = _encoded([*tokens.values()], merges, byte_ids, table)
    return last


def _made_in_order(
    tokens: Mapping[int, bytes], merges: MergeIds, byte_ids: Array, table: _RankTable
) -> tuple[Array, Array]:
    """Return what `last_merges_by_id` does, as far as each token is made of those that earlier merges make.

    In nearly all lists all are. Also returns the ids of tokens that may be made otherwise: if none of them is
    made, the first result is right.
    """
    last = np.full(max(tokens, default=0) + 1, UNMADE)
    last[byte_ids[byte_ids >= 0]] = BYTE
    is_uncertain = np.zeros(len(last), bool)
    waiting = np.arange(len(merges.result))
    while True:
        made_left, made_right = last[merges.left[waiting]], last[merges.right[waiting]]
        are_made = (made_left != UNMADE) & (made_right != UNMADE)
        ranks, waiting = waiting[are_made], waiting[~are_made]
        if not len(ranks):
            return last, np.flatnonzero(is_uncertain & (last == UNMADE))
        are_earlier = np.maximum(made_left, made_right)[are_made] < ranks
        is_uncertain[merges.result[ranks[~are_earlier]]] = True
        ranks = ranks[are_earlier]
        ranks = ranks[_meet(ranks, last, merges, table)]
        last[merges.result[ranks]] = ranks


def _meet(ranks: Array, last: Array, merges: MergeIds, table: _RankTable) -> Array:
    """Return for each merge whether its two parts, both made by earlier merges, come about side by side.

    Going back in time, the tokens at the border of the two parts are divided again. No merge may join two of
    them before the next merge within the parts: of equal ranks, the leftmost is merged first.
    """
    left, right = merges.left[ranks], merges.right[ranks]
    until_left, until_right = ranks.copy(), ranks.copy()
    meets = np.ones(len(ranks), bool)
    active = np.arange(len(ranks))
    while True:
        made_left, made_right = last[left], last[right]
        goes_on = np.flatnonzero(meets[active] & (np.maximum(made_left, made_right) >= 0))
        if not len(goes_on):
            return meets
        active, left, right, made_left, made_right, until_left, until_right = (
            part[goes_on] for part in (active, left, right, made_left, made_right, until_left, until_right)
        )
        is_left = made_left > made_right
        until_left, until_right = (
            np.where(is_left, made_left, until_left),
            np.where(is_left, until_right, made_right),
        )
        left = np.where(is_left, merges.right[made_left], left)
        right = np.where(is_left, right, merges.left[made_right])
        joined = table.find(left << 32 | right)
        meets[active[(joined < until_left) & (joined <= until_right)]] = False


def _encoded(tokens: Sequence[bytes], merges: MergeIds, byte_ids: Array, table: _RankTable) -> Array:
    """Return the last merge of each token, `[num_tokens]`, by encoding it: right for every list of merges."""
    found = np.full(len(tokens), UNMADE, np.int64)
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    found[lengths == 1] = BYTE
    last = found.copy()
    active = np.flatnonzero(lengths > 1)
    content = np.frombuffer(b"".join(token for token in tokens if len(token) > 1), np.uint8)
    ids, words = byte_ids[content], np.repeat(active, lengths[active])
    ranks = table.ranks_at(ids, words, np.arange(len(ids)))
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
        ids[places] = merges.result[lowest]
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


def applied_merges(
    vocab: Mapping[int, bytes], merges: MergeIds, byte_ids: Array
) -> tuple[MergeIds, tuple[bytes, ...]]:
    """Return the merges that are ever applied, and the tokens that none of them makes.

    Args:
        vocab: id -> token, of all ids that the merges have.
        merges: each pair once.
        byte_ids: byte -> id, `[256]`.
    """
    last = last_merges_by_id(vocab, merges, byte_ids)
    is_applied = np.zeros(len(merges.result), bool)
    is_applied[last[last >= 0]] = True
    unmade = (vocab.get(number) for number in np.flatnonzero(last == UNMADE).tolist())
    return MergeIds(*(part[is_applied] for part in merges)), tuple(filter(None, unmade))


def reachable_merges(merges: Merges) -> Merges:
    """Return the merges that are ever applied, in order."""
    results = list(dict.fromkeys(left + right for left, right in merges))
    return [merges[index] for index in sorted(set(last_merges(results, merges).tolist()) - {UNMADE, BYTE})]


class _RankTable(NumberTable):
    """Rank of each pair of ids; _NO_RANK without a merge."""

    def __init__(self, merges: MergeIds) -> None:
        super().__init__(merges.keys)

    def ranks_at(self, ids: Array, words: Array, places: Array) -> Array:
        """Return the rank of the id at each place with the next id of its word; _NO_RANK without a merge.

        Args:
            ids: of the tokens of all words in order.
            words: the word of each.
            places: indices into these.
        """
        following = np.minimum(places + 1, len(ids) - 1)
        ranks = self.find(ids[places] << 32 | ids[following])
        ranks[(words[places] != words[following]) | (following == places)] = _NO_RANK
        return ranks
