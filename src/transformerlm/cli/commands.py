"""The commands of `transformerlm COMMAND`, in one table. Imports none of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast


@dataclass(frozen=True)
class Entry:
    """A command of the table: `transformerlm NAME`, and a program of its own beside it."""

    name: str
    """Its word after `transformerlm`."""
    module: str
    """Module of `transformerlm.cli` with its `main`."""
    summary: str
    """One line for `transformerlm --help`."""
    long_name: str = ""
    """Another name, which its program has, where the name is shorter than that; "": none."""
    has_program: bool = True
    """True if there is a program `transformerlm-NAME` too (pyproject.toml)."""
    parts: tuple[Entry, ...] = ()
    """Commands that the word after the name starts: `transformerlm data inspect`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that is understood after `transformerlm`."""
        return (self.name, self.long_name) if self.long_name else (self.name,)

    @property
    def program(self) -> str:
        """Name of its own program."""
        return f"transformerlm-{self.names[-1]}"

    def part(self, name: str) -> Entry | None:
        """Return the part of this name; None if there is none."""
        return next((part for part in self.parts if part.name == name), None)

    def load(self) -> Callable[[Sequence[str] | None], int]:
        """Import the command and return its `main`, which takes its arguments, or None for the process's."""
        module = importlib.import_module(f"transformerlm.cli.{self.module}")
        return cast("Callable[[Sequence[str] | None], int]", module.main)


COMMANDS = (
    Entry("tokenizer", "train_tokenizer", "train a tokenizer on text", long_name="train-tokenizer"),
    Entry(
        "data",
        "data",
        "inspect text; show, verify or merge token files; by itself: make-data",
        parts=(
            Entry("inspect", "data_inspect", "what is in a text, what is there twice, what leaks"),
            Entry("show", "data_show", "tokens of a token file, told apart"),
            Entry("verify", "data_verify", "token files against their checksums"),
            Entry("merge", "data_merge", "several token files in one"),
        ),
    ),
    Entry("make-data", "make_data", "make token files from text"),
    Entry("train", "train", "train a model; makes a missing tokenizer and token files first"),
    Entry("sweep", "sweep", "search over keys of the config: grid, random, halving, tpe; compare the best"),
    Entry("status", "status", "show how far runs are; ask a running one to save, validate, stop or anneal"),
    Entry("infer", "infer", "write text with a trained model"),
    Entry("serve", "serve", "serve a model: OpenAI's interface, and a page to write with it"),
    Entry("eval", "eval", "loss and bits per byte of a model on text, or the difference of two models"),
    Entry("report", "report", "write a page about one or several runs"),
    Entry("export", "export", "write a model for Hugging Face or llama.cpp"),
    Entry("import", "import_model", "make a run of a Hugging Face folder"),
    Entry("completion", "completion", "print a script that completes these in a shell", has_program=False),
)
"""In the order of `transformerlm --help`, which is that of the work.

The names are short where a program's is long: `transformerlm tokenizer` reads like the table [tokenizer] of
the config. The long name works too, so that nobody who knows the program has to learn another.
"""


def find(name: str) -> Entry | None:
    """Return the command of this name; None if there is none."""
    return next((command for command in COMMANDS if name in command.names), None)
