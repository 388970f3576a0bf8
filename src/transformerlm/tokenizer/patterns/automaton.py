"""From a program to an automaton: a table that divides a text, and the places where a text may be cut.

A state is the list of the program's threads in order of priority; a thread that accepts ends those after it.
So the last accepting state on the way is the end of the match that a backtracking engine finds. Conditions on
the next character are decided when that character is read: a state accepts *before* a symbol.

Source: ordered sets of threads as in Cox, "Regular Expression Matching in the Wild" (2010).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transformerlm.tokenizer.patterns.characters import Alphabet
from transformerlm.tokenizer.patterns.program import Accept, Check, Consume, Fork, Program
from transformerlm.tokenizer.patterns.syntax import UnsupportedError

MAX_STATES = 2000
MAX_SYMBOLS = 254

Threads = tuple[int, ...]


@dataclass(frozen=True)
class State:
    """What has been read since the beginning of a match, as far as it matters."""

    threads: Threads
    """Empty: there is no longer match."""
    before: int = -1
    """Symbol of the previous character if the program looks back at it, else -1."""


class Automaton:
    """The states of a program on an alphabet. The symbol after the last one is the end of the text.

    Raises:
        UnsupportedError: more states or symbols than expected of a tokenizer.
    """

    def __init__(self, program: Program, alphabet: Alphabet) -> None:
        self.alphabet = alphabet
        self.end = alphabet.number
        if self.end > MAX_SYMBOLS:
            raise UnsupportedError(f"{self.end} classes of characters")
        self._program = program
        members = {one: alphabet.symbols_of(one) for one in program.sets()}
        self._allowed = {
            place: members[one.members if isinstance(one, Consume) else one.look.members]
            for place, one in enumerate(program.instructions)
            if isinstance(one, Consume | Check)
        }
        self.step = functools.cache(self._step)
        """Function of a state and the next symbol: (a match ends before the symbol, the state after it)."""

    def start(self, before: int) -> State:
        """Return the state at the beginning of a match after a symbol, `end` at the beginning of the text."""
        return State((self._program.start,), before if self._program.looks_back else -1)

    def starts(self) -> Iterator[State]:
        """Yield the states at which a match may begin."""
        yield from dict.fromkeys(self.start(before) for before in range(self.end + 1))

    @functools.cached_property
    def states_after(self) -> dict[int, set[State]]:
        """The states in which the previous character may be of a symbol, by the symbol."""
        found: dict[int, set[State]] = {symbol: set() for symbol in range(self.end)}
        seen = set(self.starts())
        todo = list(seen)
        while todo:
            state = todo.pop()
            for symbol in range(self.end):
                _, following = self.step(state, symbol)
                if following.threads:
                    found[symbol].add(following)
                    if following not in seen:
                        seen.add(following)
                        todo.append(following)
            if len(seen) > MAX_STATES:
                raise UnsupportedError(f"more than {MAX_STATES} states")
        return found

    @functools.cached_property
    def always_matches(self) -> frozenset[int]:
        """The symbols of characters at which a match begins, whatever is before and after them."""
        return frozenset(
            symbol
            for symbol in range(self.end)
            if all(self._leads_on(start, symbol) for start in self.starts())
        )

    def _leads_on(self, state: State, symbol: int) -> bool:
        """Return True if there is a match on every way on from `state` with `symbol`."""
        _, first = self.step(state, symbol)
        seen, todo = {first}, [first]
        while todo:
            state = todo.pop()
            if not state.threads:
                return False
            for following in range(self.end + 1):
                accepts, after = self.step(state, following)
                if not accepts and after not in seen:
                    seen.add(after)
                    todo.append(after)
        return True

    @functools.cached_property
    def safe_pairs(self) -> NDArray[np.bool_]:
        """Pairs of symbols between which any text may be cut; bool, `[num_symbols, num_symbols]`.

        No match goes on from the one to the other, in whatever state, and it ends where it would at the end
        of the text. The next one does not depend on what is before it. One of the two is always in a match:
        so the text between two matches does not go on either.
        """
        safe = np.zeros((self.end, self.end), np.bool_)
        for left, states in self.states_after.items():
            start, at_beginning = self.start(left), self.start(self.end)
            for right in range(self.end):
                is_matched = left in self.always_matches or right in self.always_matches
                if is_matched and self.step(start, right) == self.step(at_beginning, right):
                    safe[left, right] = all(self._ends_alike(state, right) for state in states)
        return safe

    def _ends_alike(self, state: State, symbol: int) -> bool:
        """Return True if no match goes on with `symbol`, and one ends before it as at the end of the text."""
        accepts, after = self.step(state, symbol)
        return not after.threads and accepts == self.step(state, self.end)[0]

    def _step(self, state: State, symbol: int) -> tuple[bool, State]:
        after, accepts = self._run(state, symbol)
        before = symbol if self._program.looks_back and after else -1
        return accepts, State(after, before)

    def _run(self, state: State, symbol: int) -> tuple[Threads, bool]:
        after: dict[int, None] = {}
        seen: set[int] = set()
        todo = list(reversed(state.threads))
        while todo:
            place = todo.pop()
            if place in seen:
                continue
            seen.add(place)
            match self._program.instructions[place]:
                case Accept():
                    return tuple(after), True
                case Fork(targets):
                    todo += reversed(targets)
                case Check(look, target):
                    known = symbol if look.is_ahead else state.before
                    if known in self._allowed[place] or (known == self.end and look.allows_end):
                        todo.append(target)
                case Consume(_, target):
                    if symbol in self._allowed[place]:
                        after[target] = None
        return tuple(after), False
