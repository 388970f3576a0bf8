"""From an automaton to the table that the kernels read; `kernels/bpe_layout.py` describes its entries.

A state of the table knows, beside the threads, whether and how long ago a match could have ended: if it was
directly before the last character, or before the one before, its entries lead on into the next match, and
nothing is read twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transformerlm.kernels.bpe_layout import ACCEPTS, EMITS, EMITS_BACK, GOES_BACK, ROW
from transformerlm.tokenizer.patterns.automaton import MAX_STATES, Automaton, State
from transformerlm.tokenizer.patterns.syntax import UnsupportedError

_TOO_LONG = None

Pending = tuple[int, ...] | None
"""Symbols that have been read since a match could have ended: none or one, else _TOO_LONG."""


@dataclass(frozen=True)
class _Place:
    state: State
    pending: Pending = _TOO_LONG


def table_of(automaton: Automaton) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
    """Return the table, and the row in which a match begins after each symbol; the last is that of the text.

    Raises:
        UnsupportedError: more states than expected of a tokenizer.
    """
    writer = _Writer(automaton)
    starts = [writer.row(_Place(automaton.start(before))) for before in range(automaton.end + 1)]
    entries: list[list[int]] = []
    while len(entries) < len(writer.places):
        place = list(writer.places)[len(entries)]
        entries.append([writer.entry(place, symbol) for symbol in range(automaton.end + 1)])
    return np.array(entries, np.uint32).reshape(-1), np.array(starts, np.int32)


class _Writer:
    def __init__(self, automaton: Automaton) -> None:
        self.automaton = automaton
        self.places: dict[_Place, int] = {}

    def row(self, place: _Place) -> int:
        """Return the position of the row of a place."""
        if len(self.places) > 4 * MAX_STATES:
            raise UnsupportedError(f"more than {4 * MAX_STATES} rows")
        return self.places.setdefault(place, len(self.places) * (self.automaton.end + 1))

    def entry(self, place: _Place, symbol: int) -> int:
        """Return the entry of a place and a symbol."""
        accepts, after = self.automaton.step(place.state, symbol)
        pending = () if accepts else place.pending
        flags = ACCEPTS if accepts else 0
        if after.threads:
            return flags | self.row(_Place(after, _longer(pending, symbol)))
        found = None
        if pending is not _TOO_LONG and symbol != self.automaton.end and place.state.before < 0:
            found = self._next_match(pending, symbol)
        return flags | GOES_BACK if found is None else found

    def _next_match(self, pending: tuple[int, ...], symbol: int) -> int | None:
        """Return the entry that ends a match and begins the next one with `pending` and `symbol`."""
        if not pending:
            return self._begun(EMITS, symbol)
        step = self.automaton.step
        _, first = step(self.automaton.start(self.automaton.end), pending[0])
        accepts, after = step(first, symbol)
        if after.threads:
            known: Pending = () if accepts else _TOO_LONG
            flags = EMITS_BACK | (ACCEPTS if accepts else 0)
            return flags | self.row(_Place(after, _longer(known, symbol)))
        return self._begun(EMITS_BACK | EMITS, symbol) if accepts else None

    def _begun(self, flags: int, symbol: int) -> int | None:
        _, after = self.automaton.step(self.automaton.start(self.automaton.end), symbol)
        return flags | self.row(_Place(after)) if after.threads else None


def _longer(pending: Pending, symbol: int) -> Pending:
    return (symbol,) if pending == () else _TOO_LONG


assert ROW >= 5 * MAX_STATES * 256
