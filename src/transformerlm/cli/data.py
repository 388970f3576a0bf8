"""transformerlm-data: work on text and token files, by the word that follows; without one, make-data."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from transformerlm.cli import make_data
from transformerlm.cli.arguments import COMMAND_LINE
from transformerlm.cli.commands import Entry, find
from transformerlm.cli.error_report import report
from transformerlm.cli.program import program_name
from transformerlm.cli.standard_streams import prepare_streams
from transformerlm.errors import ConfigError, Key, Problem, shortened
from transformerlm.logging.terminal import tell
from transformerlm.schema import unknown

OWN_NAME = "transformerlm-data"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the part that the first argument names, or make token files, and return the exit status."""
    is_process = argv is None
    words = sys.argv[1:] if argv is None else list(argv)
    command = find("data")
    assert command is not None
    if not words:
        prepare_streams(restart=is_process)
        tell(_overview(command, program_name(OWN_NAME, is_process)))
        return ConfigError.exit_status
    part = command.part(words[0])
    if part is None:
        if problem := _unknown_part(words[0], command):
            prepare_streams(restart=is_process)
            return report(ConfigError([problem]), debug="--debug" in words)
        own = dataclasses.replace(make_data.COMMAND, program=OWN_NAME, description=_description(command))
        return make_data.main(argv, own)
    if not is_process:
        return part.load()(words[1:])
    # As if the part itself had been started: its messages then name it as it was typed.
    sys.argv = [f"{program_name(OWN_NAME, is_process)} {words[0]}", *words[1:]]
    return part.load()(None)


def _unknown_part(word: str, command: Entry) -> Problem | None:
    """Return the problem of a word that looks like the name of a part, and is no path of a text."""
    if not re.fullmatch("[a-z][a-z-]*", word) or Path(word).exists():
        return None
    names = [part.name for part in command.parts]
    return Problem(Key(), f"{shortened(word)}: {unknown(word, names, 'command')}", source=COMMAND_LINE)


def _overview(command: Entry, program: str) -> str:
    """Return what the command can do, for whoever has typed no more than its name."""
    lines = [
        _description(command),
        "",
        f"  {program} --data.corpus=TEXT     makes token files of a text, and the tokenizer if it is missing",
        f"  {program} --help                 shows what else can be set",
    ]
    return "\n".join(lines) + "\n"


def _description(command: Entry) -> str:
    width = max(len(part.name) for part in command.parts) + 2
    parts = [f"  {part.name:<{width}}{part.summary}" for part in command.parts]
    what = "By itself it is make-data; a word before all options does something else, and has its own --help:"
    return "\n".join([make_data.COMMAND.description, what, *parts])


if __name__ == "__main__":
    sys.exit(main())
