"""From a tree to a program: instructions for a machine that follows several threads, in order of priority.

Source: Pike's machine as in Cox, "Regular Expression Matching: the Virtual Machine Approach" (2009).
"""

from __future__ import annotations

from dataclasses import dataclass

from transformerlm.tokenizer.patterns.characters import CharacterSet
from transformerlm.tokenizer.patterns.syntax import (
    Alternatives,
    Characters,
    Look,
    Node,
    Repeat,
    Sequence,
    UnsupportedError,
)

_MAX_INSTRUCTIONS = 4000


@dataclass(frozen=True)
class Consume:
    """Go on at `target` after a character of a set."""

    members: CharacterSet
    target: int


@dataclass(frozen=True)
class Check:
    """Go on at `target` if a condition on the next or previous character holds."""

    look: Look
    target: int


@dataclass(frozen=True)
class Fork:
    """Go on at each of the targets, the first of which has precedence."""

    targets: tuple[int, ...]


@dataclass(frozen=True)
class Accept:
    """A match ends here."""


Instruction = Consume | Check | Fork | Accept


@dataclass(frozen=True)
class Program:
    """Instructions; a match begins with the one at `start`."""

    instructions: tuple[Instruction, ...]
    start: int

    def sets(self) -> list[CharacterSet]:
        """Return all sets of characters, without repetition."""
        found = dict.fromkeys(one.members for one in self.instructions if isinstance(one, Consume))
        looks = (one.look.members for one in self.instructions if isinstance(one, Check))
        return list(found | dict.fromkeys(looks))

    @property
    def looks_back(self) -> bool:
        """True if there are conditions on the previous character."""
        return any(isinstance(one, Check) and not one.look.is_ahead for one in self.instructions)


def program_of(tree: Node) -> Program:
    """Return the program of a tree.

    Raises:
        UnsupportedError: a tree that matches the empty string, or has no program.
    """
    if _is_nullable(tree):
        raise UnsupportedError("a pattern that matches the empty string")
    writer = _Writer()
    start = writer.write(tree, writer.add(Accept()))
    return Program(tuple(writer.instructions), start)


class _Writer:
    """Writes a program from its end: every instruction knows its targets."""

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []

    def add(self, instruction: Instruction) -> int:
        if len(self.instructions) >= _MAX_INSTRUCTIONS:
            raise UnsupportedError("a pattern of this size")
        self.instructions.append(instruction)
        return len(self.instructions) - 1

    def write(self, node: Node, target: int) -> int:
        """Write the instructions of a node after which `target` follows, and return where they begin."""
        match node:
            case Characters(members):
                return self.add(Consume(members, target))
            case Look():
                return self.add(Check(node, target))
            case Sequence(nodes):
                for one in reversed(nodes):
                    target = self.write(one, target)
                return target
            case Alternatives(nodes):
                return self.add(Fork(tuple(self.write(one, target) for one in nodes)))
            case Repeat(kind="possessive"):
                return self.possessive(node, target)
            case Repeat():
                return self.repeat(node, target, target)

    def repeat(self, node: Repeat, target: int, leave: int) -> int:
        """Write a repetition: `target` follows after the largest number, `leave` where it stops before."""
        at = target
        is_lazy = node.kind == "lazy"
        if node.most is None:
            if _is_nullable(node.node):
                raise UnsupportedError("a repetition of what may be empty")
            at = self.add(Fork(()))  # filled in below: the loop leads back to it
            targets = (self.write(node.node, at), leave)
            self.instructions[at] = Fork(targets[::-1] if is_lazy else targets)
        for _ in range(node.least, node.most or 0):
            targets = (self.write(node.node, at), leave)
            at = self.add(Fork(targets[::-1] if is_lazy else targets))
        for _ in range(node.least):
            at = self.write(node.node, at)
        return at

    def possessive(self, node: Repeat, target: int) -> int:
        """Write a repetition of one class that gives nothing back: it stops only before other characters."""
        if not isinstance(node.node, Characters):
            raise UnsupportedError("a possessive repetition of more than one character")
        other = Look(node.node.members.negated(), is_ahead=True, allows_end=True)
        return self.repeat(node, target, self.add(Check(other, target)))


def _is_nullable(node: Node) -> bool:
    match node:
        case Characters():
            return False
        case Look():
            return True
        case Sequence(nodes):
            return all(map(_is_nullable, nodes))
        case Alternatives(nodes):
            return any(map(_is_nullable, nodes))
        case Repeat():
            return node.least == 0 or _is_nullable(node.node)
