"""[inspect], [show], [verify] and [merge]: what transformerlm-data looks at, and what it writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from transformerlm.errors import Key, Problem
from transformerlm.schema import FilePath, NonNegativeInt, PositiveInt, Section


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectSection(Section):
    """[inspect]: what to look for, and how to show it."""

    output_format: Literal["text", "json"] = "text"
    """"text": for people. "json": one object, with all that was found."""
    html: FilePath | None = None
    """An HTML file to write, in place of the text: one page that needs no network. None: write none."""
    min_leak_tokens: PositiveInt = 50
    """Tokens of the shortest run that counts as a leak from the training into the validation text."""
    near_copies: bool = True
    """Look for near copies too, which takes most of the time."""
    max_examples: PositiveInt = 5
    """Examples of each kind that are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShowSection(Section):
    """[show]: which part of a token file to show."""

    file: FilePath = "data/python-stdlib/train.memmap"
    """A token file."""
    at: NonNegativeInt = 0
    """Position of the first token, from 0."""
    num_tokens: PositiveInt = 100
    """Tokens to show."""
    output_format: Literal["text", "json"] = "text"
    """"text": the tokens told apart by bars. "json": one object, with ids and texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifySection(Section):
    """[verify]: which token files to read and check."""

    paths: tuple[FilePath, ...] = ("data/python-stdlib",)
    """Token files, and folders that hold some."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield no file at all."""
        if not self.paths:
            yield Problem(Key("paths"), "expected at least one token file or folder of token files, got none")


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeSection(Section):
    """[merge]: which token files to write one after the other, and where."""

    paths: tuple[FilePath, ...] = ()
    """Token files, or folders with a train.memmap each: then val.memmap is merged as well."""
    output: FilePath | None = None
    """The token file to write or, if `paths` are folders, the folder."""

    def missing(self) -> Iterator[Problem]:
        """Yield fewer than two files, and no output: there are no defaults for them."""
        if len(self.paths) < 2:
            what = f"expected at least two token files or folders, got {len(self.paths)}"
            yield Problem(Key("merge", "paths"), what)
        if self.output is None:
            what = "expected a path for the merged tokens, got None; take --output=PATH"
            yield Problem(Key("merge", "output"), what)
