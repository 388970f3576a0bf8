"""Looking up many byte strings at once, in NumPy: the id of each, without a Python object for any of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

EMPTY, ABSENT = -1, np.iinfo(np.int32).max
_MIX = np.uint64(0x9E3779B97F4A7C15)
LINE_END = 0xFF
_WORD = 8  # bytes that are read at a time
PADDING = _WORD
"""Bytes behind the content of `Strings`."""
_MAX_SEEDS = 16
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(_WORD + 1)], "<u8")


class NumberTable:
    """Index of each of many numbers: a hash table with open addressing.

    Args:
        keys: int64, none EMPTY, `[num_keys]`. Of equal ones the last counts.
    """

    def __init__(self, keys: Array) -> None:
        self._bits = max(4, (2 * len(keys)).bit_length())
        self._keys = np.full(1 << self._bits, EMPTY)
        self._indices = np.full(1 << self._bits, ABSENT, np.int32)
        indices, slots = np.arange(len(keys), dtype=np.int32), self._first_slots(keys)
        while len(indices):
            free = np.flatnonzero(self._keys.take(slots) == EMPTY)
            self._keys[slots.take(free)] = keys.take(indices.take(free))
            is_placed = self._keys.take(slots) == keys.take(indices)  # of several for one slot, the last one
            placed, others = np.flatnonzero(is_placed), np.flatnonzero(~is_placed)
            self._indices[slots.take(placed)] = indices.take(placed)
            indices, slots = indices.take(others), self._next_slots(slots.take(others))

    def find(self, keys: Array) -> Array:
        """Return the index of each number, int32; ABSENT for one that is not there."""
        slots = self._first_slots(keys)
        found, indices = self._keys.take(slots), self._indices.take(slots)
        others = np.flatnonzero((found != keys) & (found != EMPTY))
        slots, keys = slots.take(others), keys.take(others)
        while len(others):
            slots = self._next_slots(slots)
            found, indices[others] = self._keys.take(slots), self._indices.take(slots)
            goes_on = np.flatnonzero((found != keys) & (found != EMPTY))
            others, slots, keys = others.take(goes_on), slots.take(goes_on), keys.take(goes_on)
        return indices

    def _first_slots(self, keys: Array) -> Array:
        return (keys.view(np.uint64) * _MIX >> np.uint64(64 - self._bits)).view(np.int64)

    def _next_slots(self, slots: Array) -> Array:
        return (slots + 1) & ((1 << self._bits) - 1)


class Strings(NamedTuple):
    """Byte strings that are parts of one content."""

    content: Array
    """uint8, with `PADDING` bytes behind the last string."""
    starts: Array
    sizes: Array

    @classmethod
    def of(cls, tokens: Sequence[bytes]) -> Strings:
        """Return a list of byte strings, joined."""
        sizes = np.fromiter(map(len, tokens), np.int64, len(tokens))
        return cls(padded(b"".join(tokens)), np.cumsum(sizes) - sizes, sizes)

    @classmethod
    def between(cls, content: Array, ends: Array) -> Strings:
        """Return what one separator each divides in a content that ends with padding, `[num_ends]`."""
        starts = np.append(0, ends[:-1] + 1)
        return cls(content, starts, ends - starts)

    def take(self, indices: Any) -> Strings:
        """Return some of them."""
        return Strings(self.content, self.starts[indices], self.sizes[indices])

    def is_equal(self, other: Strings) -> bool:
        """Return True if both are the same, and so is what lies between; strings in order of their starts."""
        if not len(self.sizes) or not np.array_equal(self.sizes, other.sizes):
            return False
        (own, own_starts), (content, starts) = (
            (part.content[part.starts[0] : part.starts[-1] + part.sizes[-1]], part.starts - part.starts[0])
            for part in (self, other)
        )
        return np.array_equal(own_starts, starts) and np.array_equal(own, content)

    def words(self, place: int) -> Array:
        """Return the eight bytes of each from `place` on as a number; zeros are behind its end."""
        every: Array = np.ndarray(len(self.content) - _WORD + 1, "<u8", self.content, strides=(1,))
        found: Array = every[self.starts + place] if place else every[self.starts]
        found &= _MASKS.take(np.minimum(self.sizes - place if place else self.sizes, _WORD))
        return found


def lines_of(texts: Collection[str]) -> tuple[Array, Array]:
    """Return UTF-8 with a byte behind each text that no text has, and the places of these bytes.

    Raises:
        UnicodeEncodeError: an unpaired surrogate.
    """
    content = padded(("\0".join(texts) + "\0").encode())
    ends = np.flatnonzero(content[:-PADDING] == 0)
    if len(ends) == len(texts):
        return content, ends
    # A text has U+0000. 0xFF takes twice as long, as what stands for a byte that is no UTF-8.
    content = padded(("\udcff".join(texts) + "\udcff").encode(errors="surrogateescape"))
    return content, np.flatnonzero(content == LINE_END)


def padded(content: bytes) -> Array:
    """Return bytes as an array, with padding behind them."""
    return np.frombuffer(content + bytes(PADDING), np.uint8)


class TokenTable:
    """Ids of byte strings.

    Args:
        tokens: the strings, all different.
        ids: of each.
    """

    def __init__(self, tokens: Strings, ids: Iterable[int] | Array) -> None:
        self._tokens, self._first = tokens, tokens.words(0)
        self._ids = ids if isinstance(ids, np.ndarray) else np.fromiter(ids, np.int64, len(tokens.sizes))
        for self._seed in range(_MAX_SEEDS):
            hashes = _hashes(tokens, self._first, self._seed)
            if np.diff(np.sort(hashes)).all():  # else one of two tokens could not be found
                break
        self._table = NumberTable(hashes)

    def find(self, strings: Strings) -> Array:
        """Return the id of each string, int64; EMPTY for one that is no token."""
        if not len(self._ids):
            return np.full(len(strings.sizes), EMPTY)
        first = strings.words(0)
        found = self._table.find(_hashes(strings, first, self._seed))
        is_known = found != ABSENT
        found[~is_known] = 0
        is_known &= (self._first.take(found) == first) & (self._tokens.sizes.take(found) == strings.sizes)
        places, place = np.flatnonzero(is_known & (strings.sizes > _WORD)), _WORD
        while len(places):
            same = strings.take(places).words(place) == self._tokens.take(found[places]).words(place)
            is_known[places[~same]] = False
            place += _WORD
            places = places[same & (strings.sizes[places] > place)]
        return np.where(is_known, self._ids.take(found), EMPTY)

    def find_in_order(self, strings: Strings) -> Array:
        """Return what `find` does, sooner where they are tokens in a row, as results of merges are."""
        first = strings.take(np.s_[:1])
        place = int(self._table.find(_hashes(first, first.words(0), self._seed)).min(initial=ABSENT))
        stop = place + len(strings.sizes)
        row = self._tokens.take(np.s_[place:stop])
        return self._ids[place:stop] if row.is_equal(strings) else self.find(strings)


def _hashes(strings: Strings, first: Array, seed: int) -> Array:
    """Return a number from 0 on for each string, given the first word of each."""
    hashes = (strings.sizes.astype(np.uint64) << np.uint64(8) | np.uint64(seed)) * _MIX
    hashes = _mixed(hashes, first)
    places, place = np.flatnonzero(strings.sizes > _WORD), _WORD
    rest = strings.take(places)
    while len(places):
        hashes[places] = _mixed(hashes[places], rest.words(place))
        place += _WORD
        goes_on = rest.sizes > place
        places, rest = places[goes_on], rest.take(goes_on)
    return (hashes >> np.uint64(1)).view(np.int64)


def _mixed(hashes: Array, words: Array) -> Array:
    mixed = (hashes ^ words) * _MIX
    mixed ^= mixed >> np.uint64(32)
    return mixed
