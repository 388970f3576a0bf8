"""Sets of characters, with the general categories that the `regex` package knows."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import regex
from numpy.typing import NDArray

NUM_CODES = sys.maxunicode + 1
SURROGATE = 0xDC80
"""Stands for all bytes that are not UTF-8 (`pretokenize.text_of`): surrogates are in the same sets."""

_CATEGORIES = (
    *("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe"),
    *("Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"),
)


@dataclass(frozen=True)
class CharacterSet:
    """A union of ranges of code points and of general categories and white space, or its complement."""

    ranges: tuple[tuple[int, int], ...] = ()
    """First and last code point of each."""
    properties: frozenset[str] = frozenset()
    """Two-letter names of general categories, and "s" for white space."""
    parts: tuple[CharacterSet, ...] = ()
    """Further sets that belong to the union."""
    is_negated: bool = False

    def negated(self) -> CharacterSet:
        """Return the complement."""
        return CharacterSet(self.ranges, self.properties, self.parts, not self.is_negated)

    def all_ranges(self) -> Iterable[tuple[int, int]]:
        """Yield the ranges, those of the parts included."""
        yield from self.ranges
        for part in self.parts:
            yield from part.all_ranges()


def characters(text: str) -> CharacterSet:
    """Return the set of the characters of a text."""
    return CharacterSet(tuple((ord(character), ord(character)) for character in sorted(set(text))))


def with_property(name: str) -> CharacterSet:
    r"""Return the characters of a property, as of \p{Lu}, \p{L} or \p{Han}.

    Raises:
        regex.error: no property of the `regex` package.
    """
    if is_category(name):
        return CharacterSet(properties=frozenset(one for one in _CATEGORIES if one.startswith(name)))
    return matched_by(rf"\p{{{name}}}")


def is_category(name: str) -> bool:
    """Return True if a property is a general category, or a class of them such as L."""
    return name in {*_CATEGORIES, *(category[0] for category in _CATEGORIES)}


@functools.cache
def matched_by(expression: str) -> CharacterSet:
    r"""Return the characters that an expression of the `regex` package matches, such as \w."""
    found = regex.finditer(f"{expression}+", _every_character())
    return CharacterSet(tuple((match.start(), match.end() - 1) for match in found))


WHITE_SPACE = CharacterSet(properties=frozenset({"s"}))


def case_variants(character: str) -> CharacterSet:
    """Return the characters that match an ASCII letter if case is ignored."""
    variants = {character.lower(), character.upper(), *"\u0130\u0131\u017f\u212a"}
    return characters("".join(filter(regex.compile(f"(?i:{character})").fullmatch, variants)))


class Alphabet:
    """The division of all code points into symbols: two of one symbol are in the same sets.

    Symbol 0 holds the bytes that are not UTF-8.

    Args:
        sets: the sets that symbols tell apart.
    """

    def __init__(self, sets: Sequence[CharacterSet]) -> None:
        ends = {code for one in sets for first, last in one.all_ranges() for code in (first, last + 1)}
        starts, is_space, categories = _properties()
        explicit = np.array([0, SURROGATE, SURROGATE + 1, *(ends - {NUM_CODES})], np.int64)
        self.starts = np.unique(np.concatenate([starts, explicit]))
        """First code point of each cell, a range whose code points are in the same sets."""
        place = np.searchsorted(starts, self.starts, side="right") - 1
        self._categories, self._is_space = categories[place], is_space[place]
        rows = np.array([self._cells(one) for one in sets], np.uint8).reshape(len(sets), len(self.starts))
        columns = [column.tobytes() for column in np.ascontiguousarray(rows.T)]
        invalid = columns[int(np.searchsorted(self.starts, SURROGATE))]
        symbols = {column: symbol for symbol, column in enumerate(dict.fromkeys([invalid, *columns]))}
        self.symbols = np.array([symbols[column] for column in columns], np.int64)
        """Symbol of each cell."""
        self.number = len(symbols)
        self._symbols_of = {
            one: frozenset(symbols[column] for column in symbols if column[place])
            for place, one in enumerate(sets)
        }

    def symbols_of(self, one: CharacterSet) -> frozenset[int]:
        """Return the symbols of one of the sets."""
        return self._symbols_of[one]

    def table(self, size: int = NUM_CODES, beyond: int = 0) -> NDArray[np.uint8]:
        """Return the symbol of each code point; u8 `[size]`, with `beyond` after the last one."""
        lengths = np.diff(self.starts, append=NUM_CODES)
        table = np.full(size, beyond, np.uint8)
        table[:NUM_CODES] = np.repeat(self.symbols.astype(np.uint8), lengths)
        return table

    def _cells(self, one: CharacterSet) -> NDArray[np.bool_]:
        found = np.isin(self._categories, [_CATEGORIES.index(name) for name in one.properties - {"s"}])
        if "s" in one.properties:
            found |= self._is_space
        for first, last in one.ranges:
            found |= (self.starts >= first) & (self.starts <= last)
        for part in one.parts:
            found |= self._cells(part)
        return ~found if one.is_negated else found


def _every_character() -> str:
    return "".join(map(chr, range(NUM_CODES)))


@functools.cache
def _properties() -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Return first code point, white space or not, and category of each run of equal characters."""
    every = _every_character()
    groups = "|".join(rf"(\p{{{name}}}+)" for name in _CATEGORIES)
    runs = [(match.start(), match.lastindex or 0) for match in regex.finditer(groups, every)]
    firsts, kinds = np.array(runs, np.int64).T
    spaces = [match.span() for match in regex.finditer(r"\s+", every)]
    starts = np.unique(np.concatenate([firsts, np.array(spaces, np.int64).reshape(-1)]))
    categories = kinds[np.searchsorted(firsts, starts, side="right") - 1] - 1
    is_space = np.logical_or.reduce([(starts >= first) & (starts < end) for first, end in spaces])
    return starts, is_space, categories
