"""From a regular expression in the syntax of the `regex` package to a tree.

What is not among the constructs that tokenizers use is refused: then plain Python divides the texts.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, replace

from transformerlm.tokenizer.patterns.characters import (
    WHITE_SPACE,
    CharacterSet,
    case_variants,
    characters,
    is_category,
    matched_by,
    with_property,
)


class UnsupportedError(Exception):
    """A construct that has no automaton here; the message names it."""


@dataclass(frozen=True)
class Characters:
    """One character of a set."""

    members: CharacterSet


@dataclass(frozen=True)
class Look:
    """A condition on the next or the previous character."""

    members: CharacterSet
    is_ahead: bool
    allows_end: bool
    """Satisfied where there is no such character."""


@dataclass(frozen=True)
class Sequence:
    """Nodes in a row."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Alternatives:
    """Several nodes, the first of which that leads to a match is taken."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """A node several times."""

    node: Node
    least: int
    most: int | None
    """None: without limit."""
    kind: str
    """"greedy", "lazy" or "possessive"."""


Node = Characters | Look | Sequence | Alternatives | Repeat

_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_MAX_REPEATS = 1000
_BOUNDS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_KINDS = {"?": "lazy", "+": "possessive"}


def parse(pattern: str) -> Node:
    """Return the tree of a regular expression that the `regex` package accepts.

    Raises:
        UnsupportedError: something in it is not supported.
    """
    parser = _Parser(pattern)
    tree = parser.alternatives(ignores_case=False)
    if parser.at < len(pattern):
        raise UnsupportedError(f"{pattern[parser.at :]!r:.20}")
    return tree


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0

    def alternatives(self, ignores_case: bool) -> Node:
        nodes = [self.sequence(ignores_case)]
        while self.take("|"):
            nodes.append(self.sequence(ignores_case))
        return nodes[0] if len(nodes) == 1 else Alternatives(tuple(nodes))

    def sequence(self, ignores_case: bool) -> Node:
        nodes: list[Node] = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            if self.take("$"):
                nodes.append(self.end(nodes))
            else:
                nodes.append(self.repeated(self.one(ignores_case)))
        return nodes[0] if len(nodes) == 1 else Sequence(tuple(nodes))

    def end(self, nodes: list[Node]) -> Node:
        # "$" matches before a last line feed too, unless that has been consumed already.
        all_space = [Repeat(Characters(WHITE_SPACE), least, None, "possessive") for least in (0, 1)]
        if nodes and nodes[-1] in all_space:
            return Look(CharacterSet(), is_ahead=True, allows_end=True)
        raise UnsupportedError("$")

    def repeated(self, node: Node) -> Node:
        bounds = self.bounds()
        if bounds is None:
            return node
        if isinstance(node, Look):
            raise UnsupportedError("a repeated condition")
        kind = "greedy"
        for sign, name in _KINDS.items():
            if self.take(sign):
                kind = name
        if self.bounds() is not None:
            raise UnsupportedError("a repeated repetition")
        return Repeat(node, *bounds, kind)

    def bounds(self) -> tuple[int, int | None] | None:
        for sign, usual in _BOUNDS.items():
            if self.take(sign):
                return usual
        if not self.take("{"):
            return None
        text = self.until("}")
        least, comma, most = text.partition(",")
        if not least.isdecimal() or (most and not most.isdecimal()):
            raise UnsupportedError(f"{{{text}}}")
        bounds = int(least), (int(most) if most else None) if comma else int(least)
        if max(filter(None, bounds), default=0) > _MAX_REPEATS:
            raise UnsupportedError(f"{{{text}}}")
        return bounds

    def one(self, ignores_case: bool) -> Node:
        if self.take("("):
            return self.group(ignores_case)
        if self.take("["):
            return Characters(self.set(ignores_case))
        if self.take("."):
            return Characters(characters("\n").negated())
        character = self.next()
        if character == "\\":
            return Characters(self.escape(ignores_case))
        if character in "*+?{}^":
            raise UnsupportedError(character)
        return Characters(_literal(character, ignores_case))

    def group(self, ignores_case: bool) -> Node:
        if not self.take("?"):
            return self.rest_of_group(ignores_case)
        if self.take("i:"):
            return self.rest_of_group(ignores_case=True)
        if self.take(":"):
            return self.rest_of_group(ignores_case)
        for start, is_ahead, is_negated in (
            *(("=", True, False), ("!", True, True)),
            *(("<=", False, False), ("<!", False, True)),
        ):
            if self.take(start):
                return _look(self.rest_of_group(ignores_case), is_ahead, is_negated)
        raise UnsupportedError(f"({self.pattern[self.at - 1 : self.at + 2]}")

    def rest_of_group(self, ignores_case: bool) -> Node:
        node = self.alternatives(ignores_case)
        if not self.take(")"):
            raise UnsupportedError("a group without an end")
        return node

    def escape(self, ignores_case: bool) -> CharacterSet:
        letter = self.next()
        if letter in "sS":
            return WHITE_SPACE if letter == "s" else WHITE_SPACE.negated()
        if letter in "dD":
            return with_property("Nd") if letter == "d" else with_property("Nd").negated()
        if letter in "wW":
            return matched_by(r"\w") if letter == "w" else matched_by(r"\w").negated()
        if letter in "pP" and self.take("{"):
            return self.property(letter == "P", ignores_case)
        if letter in _ESCAPED:
            return characters(_ESCAPED[letter])
        if letter in string.ascii_letters + string.digits:
            return self.code(letter, ignores_case)
        return _literal(letter, ignores_case)

    def code(self, letter: str, ignores_case: bool) -> CharacterSet:
        length = {"x": 2, "u": 4, "U": 8}.get(letter)
        digits = self.pattern[self.at : self.at + (length or 0)]
        if length is None or len(digits) < length or not set(digits) <= set(string.hexdigits):
            raise UnsupportedError(f"\\{letter}")
        self.at += length
        return _literal(chr(int(digits, 16)), ignores_case)

    def property(self, is_negated: bool, ignores_case: bool) -> CharacterSet:
        name = self.until("}")
        if ignores_case and (name[:1] == "L" or not is_category(name)):
            raise UnsupportedError(f"\\p{{{name}}} without regard to case")
        found = with_property(name)
        return found.negated() if is_negated else found

    def set(self, ignores_case: bool) -> CharacterSet:
        is_negated = self.take("^")
        parts: list[CharacterSet] = []
        if self.take("]"):  # at the beginning it is a character
            parts.append(characters("]"))
        while not self.take("]"):
            one = self.member(ignores_case)
            if self.take("-"):
                if self.pattern[self.at : self.at + 1] == "]":
                    parts.append(_literal("-", ignores_case))
                else:
                    one = _range(one, self.member(ignores_case), ignores_case)
            parts.append(one)
        return CharacterSet(parts=tuple(parts), is_negated=is_negated)

    def member(self, ignores_case: bool) -> CharacterSet:
        character = self.next()
        if character == "\\":
            return self.escape(ignores_case)
        following = self.pattern[self.at : self.at + 1]
        if character == "[" or (character in "&|~-" and following == character):
            raise UnsupportedError(f"{character}{following} in a set")
        return _literal(character, ignores_case)

    def take(self, text: str) -> bool:
        found = self.pattern.startswith(text, self.at)
        self.at += len(text) * found
        return found

    def next(self) -> str:
        if self.at >= len(self.pattern):
            raise UnsupportedError("the end of the pattern")
        self.at += 1
        return self.pattern[self.at - 1]

    def until(self, end: str) -> str:
        start, self.at = self.at, self.pattern.find(end, self.at) + 1
        if not self.at:
            raise UnsupportedError(f"no {end!r}")
        return self.pattern[start : self.at - 1]


def _literal(character: str, ignores_case: bool) -> CharacterSet:
    if not ignores_case or (character.isascii() and not character.isalpha()):
        return characters(character)
    if not character.isascii():
        raise UnsupportedError(f"{character} without regard to case")
    return case_variants(character)


def _range(first: CharacterSet, last: CharacterSet, ignores_case: bool) -> CharacterSet:
    ends = [*first.ranges, *last.ranges]
    if ignores_case or len(ends) != 2 or any(low != high for low, high in ends):
        raise UnsupportedError("a range of a set")
    (low, _), (high, _) = ends
    return CharacterSet(((low, high),))


def _look(node: Node, is_ahead: bool, is_negated: bool) -> Look:
    """Return a condition on one character.

    Raises:
        UnsupportedError: the condition looks at more than one.
    """
    if not isinstance(node, Characters):
        raise UnsupportedError("looking at more than one character")
    look = Look(node.members, is_ahead, allows_end=False)
    return replace(look, members=look.members.negated(), allows_end=True) if is_negated else look
