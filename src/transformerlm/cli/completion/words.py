"""Words to complete: every command with its options, as each tells of itself."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

from transformerlm.cli.commands import COMMANDS, Entry
from transformerlm.cli.interface import ListedOption

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class CommandWords:
    """A command and what may follow it."""

    command: Entry
    options: Sequence[ListedOption]
    arguments: Sequence[str] = ()
    """Words that are no options, of which one may follow; a pattern such as "*" stands for files."""
    parts: Sequence[CommandWords] = ()
    """The commands that one of `arguments` starts, with the whole of their names: "data inspect"."""


def all_commands() -> list[CommandWords]:
    """Return every command of the table; each is asked for its options, and none is run."""
    return [_words(command) for command in COMMANDS]


def _words(command: Entry) -> CommandWords:
    if not command.has_program:
        return CommandWords(command, (), SHELLS)
    parts = [_part(command, part) for part in command.parts]
    options, words = _listed(command)
    return CommandWords(command, options, [*words, *(part.name for part in command.parts)], parts)


def _part(command: Entry, part: Entry) -> CommandWords:
    return CommandWords(dataclasses.replace(part, name=f"{command.name} {part.name}"), *_listed(part))


def _listed(command: Entry) -> tuple[list[ListedOption], list[str]]:
    """Return the options of a command, and the words that are none."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = command.load()(["--print-options"])
    assert status == 0, command.name
    listed = [_option(fields) for fields in json.loads(printed.getvalue())]
    options = [option for option in listed if option.name.startswith("--")]
    words = [word for one in listed if one not in options for word in (*one.choices, one.files) if word]
    return options, words


def _option(fields: dict[str, object]) -> ListedOption:
    known = ListedOption(**fields)  # type: ignore[arg-type]
    return ListedOption(**{**vars(known), "choices": tuple(known.choices)})


def with_parts(commands: Sequence[CommandWords]) -> list[CommandWords]:
    """Return the commands, each followed by its parts."""
    return [one for words in commands for one in (words, *words.parts)]


def in_one_line(summary: str, max_length: int = 70) -> str:
    """Return a summary as a shell shows it beside a word: one sentence at most, without a full stop."""
    first = summary.partition(". ")[0].rstrip(".")
    return first if len(first) <= max_length else first[: max_length - 3].rstrip() + "..."
