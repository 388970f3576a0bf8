"""Compilation of a pre-tokenizer to an automaton."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from transformerlm.config import GPT2_PATTERN
from transformerlm.kernels.bpe_layout import BEYOND
from transformerlm.tokenizer.patterns.automaton import Automaton, State
from transformerlm.tokenizer.patterns.characters import Alphabet, CharacterSet
from transformerlm.tokenizer.patterns.program import program_of
from transformerlm.tokenizer.patterns.syntax import (
    Alternatives,
    Characters,
    Look,
    Node,
    Repeat,
    Sequence,
    UnsupportedError,
    parse,
)
from transformerlm.tokenizer.patterns.table import table_of
from transformerlm.tokenizer.splits import Pattern, Split, splits_of

_SURROGATES = slice(0xD800, 0xE000)
_NUM_CODES_OF_FOUR_BYTES = 1 << 21


@dataclass(frozen=True)
class CompiledPattern:
    """A pre-tokenizer as an automaton."""

    automaton: Automaton
    groups: NDArray[np.uint8]
    """Numbers of the symbols: text without a match is divided between symbols of different numbers."""

    def last_cut(self, text: str) -> int:
        """Return the last place at which a text, which may be part of a longer one, is cut safely; else 0."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        symbols = self._symbols[codes]
        places = np.flatnonzero(self.automaton.safe_pairs[symbols[:-1], symbols[1:]])
        return int(places[-1]) + 1 if len(places) else 0

    @functools.cached_property
    def _symbols(self) -> NDArray[np.uint8]:
        return self.automaton.alphabet.table()

    @functools.cached_property
    def arguments(self) -> dict[str, NDArray[np.generic] | int]:
        """The automaton as arguments of the kernels."""
        table, starts = table_of(self.automaton)
        classes = self.automaton.alphabet.table(_NUM_CODES_OF_FOUR_BYTES, BEYOND)
        classes[_SURROGATES] = BEYOND
        return {
            "automaton": table,
            "start_rows": starts,
            "classes": classes,
            "groups_of_symbols": self.groups,
            "safe_pairs": self.automaton.safe_pairs.astype(np.uint8).reshape(-1),
            "safe_ascii": self._safe_ascii(classes[:128]),
            "end_symbol": self.automaton.end,
        }

    def _safe_ascii(self, symbols: NDArray[np.uint8]) -> NDArray[np.uint8]:
        pairs = np.zeros((256, 256), np.uint8)  # [second, first]
        pairs[:128, :128] = self.automaton.safe_pairs[np.ix_(symbols, symbols)].T
        return pairs.reshape(-1)


@functools.lru_cache(maxsize=64)
def compile_pattern(pattern: Pattern) -> CompiledPattern | None:
    """Return the automaton of a pre-tokenizer; None if it has none, and plain Python is to divide texts."""
    try:
        return _compiled(splits_of(pattern))
    except (UnsupportedError, RecursionError):
        return None


def compile_cuts(pattern: Pattern) -> CompiledPattern | None:
    """Return an automaton whose safe cuts are safe for a pre-tokenizer; None if there is none.

    Without an automaton for all splits, that of the first one serves: the others divide its parts.
    """
    whole = compile_pattern(pattern)
    if whole or isinstance(pattern, str) or not pattern:
        return whole
    first = pattern[0]
    if first.behavior == "removed":  # divides where it would if the matches stayed
        first = replace(first, behavior="isolated")
    return compile_pattern((first,))


@functools.cache
def has_kernels(pattern: Pattern) -> bool:
    """Return True if the kernels divide texts by a pre-tokenizer; if not, say so, once, on standard error."""
    if pattern == GPT2_PATTERN or compile_pattern(pattern):
        return True
    what = f"no kernels for the pre-tokenisation pattern {pattern!r:.200} ({why_unsupported(pattern)})"
    print(f"{what}: texts are divided in plain Python, slowly", file=sys.stderr, flush=True)
    return False


def why_unsupported(pattern: Pattern) -> str | None:
    """Return what in a pre-tokenizer has no automaton; None if it has one."""
    try:
        _compiled(splits_of(pattern))
    except UnsupportedError as error:
        return str(error)
    except RecursionError:
        return "groups within groups, too many of them"
    return None


def _compiled(splits: tuple[Split, ...]) -> CompiledPattern:
    if not splits:
        raise UnsupportedError("no split")
    trees = [_tree(split, is_last=split is splits[-1]) for split in splits]
    runs = [_run_of(tree) for tree in trees[:-1]]
    members = [run.members for run in runs]
    automaton = _automaton(_joined(runs, trees[-1]), members)
    if splits[-1].behavior == "removed" and len(automaton.always_matches) < automaton.end:
        raise UnsupportedError("removing characters")
    _ = automaton.safe_pairs  # also limits the number of states
    groups = np.zeros(automaton.end, np.uint8)
    for place, one in enumerate(members):
        groups[list(automaton.alphabet.symbols_of(one))] |= 1 << place
    return CompiledPattern(automaton, groups)


def _automaton(tree: Node, others: Iterable[CharacterSet]) -> Automaton:
    """Return the automaton of a tree, on an alphabet that tells other sets apart too."""
    program = program_of(tree)
    return Automaton(program, Alphabet(list(dict.fromkeys([*program.sets(), *others]))))


def _tree(split: Split, is_last: bool) -> Node:
    """Return a tree whose matches, with the texts between them, are the parts that a split makes."""
    tree = parse(split.pattern)
    match split.behavior:
        case "isolated":
            return tree
        case "removed" if split.invert and is_last:  # what is between the matches must not exist
            return tree
        case "contiguous":
            return Repeat(Characters(_run_of(tree).members), 1, None, "greedy")
        case "merged_with_previous" | "merged_with_next":
            return _merged(_run_of(tree), is_before=(split.behavior == "merged_with_next") != split.invert)
    raise UnsupportedError(f"a split of behavior {split.behavior}")


@dataclass(frozen=True)
class _Run:
    """A split that divides off the characters of one class, so many at a time."""

    members: CharacterSet
    most: int | None

    @property
    def tree(self) -> Node:
        return Repeat(Characters(self.members), 1, self.most, "greedy")


def _run_of(tree: Node) -> _Run:
    match tree:
        case Characters(members):
            return _Run(members, 1)
        case Repeat(Characters(members), 1, most, "greedy" | "possessive"):
            return _Run(members, most)
        case Repeat(Repeat() as inner, 1, 1, _) | Sequence((inner,)):
            return _run_of(inner)
    raise UnsupportedError("several steps, of which an early one is not of one class of characters")


def _merged(run: _Run, *, is_before: bool) -> Node:
    """Return a tree for runs that are joined to the text after them, or to that before them."""
    text = Repeat(Characters(run.members.negated()), 1, None, "greedy")
    optional = Repeat(run.tree, 0, 1, "greedy")
    return Alternatives((Sequence((optional, text) if is_before else (text, optional)), run.tree))


def _joined(runs: list[_Run], last: Node) -> Node:
    """Return one tree for several steps, of which all but the last divide off runs.

    To later steps such runs and what is between them are texts of their own: no match has characters of both.
    """
    for run in reversed(runs):
        others = _within(last, run.members.negated())
        if _leaves_whole(last, run):
            last = Alternatives((run.tree, others))
        elif run.most is None:
            last = Alternatives((_within(last, run.members), others))
        else:
            raise UnsupportedError("several steps, of which a later one divides numbers of characters")
    return last


def _leaves_whole(tree: Node, run: _Run) -> bool:
    """Return True if a tree divides no run: it matches all of any, or never anything in one."""
    if run.most == 1:
        return True
    automaton = _automaton(tree, [run.members])
    symbols, end = automaton.alphabet.symbols_of(run.members), automaton.end
    reached = {automaton.start(before) for before in (*symbols, end)}
    matches, goes_on = set[bool](), True
    seen: set[State] = set()
    while reached:
        seen |= reached
        steps = [automaton.step(state, symbol) for state in reached for symbol in symbols]
        goes_on &= all(after.threads for _, after in steps)
        matches |= {accepts for accepts, _ in steps if accepts}
        reached = {after for _, after in steps if after.threads}
        matches |= {automaton.step(state, end)[0] for state in reached}
        reached -= seen
    return matches <= {False} or (goes_on and False not in matches)


def _within(tree: Node, members: CharacterSet) -> Node:
    """Return a tree that matches only characters of a set; to it, others are the end of the text."""
    match tree:
        case Characters(own):
            return Characters(_both(own, members))
        case Look(own):
            if tree.allows_end:
                return replace(tree, members=CharacterSet(parts=(own, members.negated())))
            return replace(tree, members=_both(own, members))
        case Repeat():
            return replace(tree, node=_within(tree.node, members))
        case Sequence(nodes) | Alternatives(nodes):
            return replace(tree, nodes=tuple(_within(node, members) for node in nodes))


def _both(one: CharacterSet, other: CharacterSet) -> CharacterSet:
    return CharacterSet(parts=(one.negated(), other.negated()), is_negated=True)
