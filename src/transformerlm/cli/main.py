"""transformerlm: every command by one name, `transformerlm train ...`.

Imports a command only to run it, and no torch by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from transformerlm.cli.arguments import COMMAND_LINE
from transformerlm.cli.commands import COMMANDS, Entry, find
from transformerlm.cli.error_report import report
from transformerlm.cli.meant import quoted
from transformerlm.cli.program import program_name
from transformerlm.cli.standard_streams import prepare_streams, print_text
from transformerlm.cli.version import version_text
from transformerlm.errors import ConfigError, Key, Problem, shortened
from transformerlm.logging.terminal import tell
from transformerlm.schema import unknown

HELP_WORDS = ("--help", "-h", "--help=all")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names, and return its exit status."""
    is_process = argv is None
    prepare_streams(restart=is_process)
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    program = program_name("transformerlm", is_process)
    try:
        command = _command(words, program)
        if command is None:
            return _about(words, program)
    except (ConfigError, OSError, KeyboardInterrupt) as error:
        return report(error, debug="--debug" in words)
    if not is_process:
        return command.load()(words[1:])
    # As if the command itself had been started: its messages then name it as it was typed.
    sys.argv = [f"{program} {words[0]}", *words[1:]]
    return command.load()(None)


def _command(words: Sequence[str], program: str) -> Entry | None:
    """Return the command to run; None if the words ask about the program itself.

    Raises:
        ConfigError: the first word is no command.
    """
    if not words or words[0] in (*HELP_WORDS, "--version"):
        return None
    command = find(words[0])
    if command is None:
        raise ConfigError([Problem(Key(), _no_command(words, program), source=COMMAND_LINE)])
    return command


def _about(words: Sequence[str], program: str) -> int:
    if not words:
        tell(overview(program))
        return ConfigError.exit_status
    print_text(version_text() if words[0] == "--version" else overview(program))
    return 0


def _no_command(words: Sequence[str], program: str) -> str:
    word = shortened(words[0])
    if words[0].startswith("-") or words[0].endswith(".toml"):
        option = words[0] if words[0].startswith("-") else f"--config={words[0]}"
        line = " ".join([program, "train", *map(quoted, [option, *words[1:]])])
        return f"{word}: expected a command before it, as in: {line}"
    return f"{word}: {unknown(words[0], [name for one in COMMANDS for name in one.names], 'command')}"


def overview(program: str) -> str:
    """Return the help of the program: each command with a line.

    Args:
        program: the program as the user typed it.
    """
    width = max(len(command.name) for command in COMMANDS) + 2
    lines = [
        "From a folder of raw text to a language model that writes.",
        "",
        f"usage: {program} COMMAND [--config=FILE.toml] [--SECTION.KEY=VALUE ...] [OPTION ...]",
        "",
        "commands:",
        *(f"  {command.name:<{width}}{_summary(command)}" for command in COMMANDS),
        "",
        f"  {program} COMMAND --help      what a command takes",
        f"  {program} --version           the versions of this package, Python and torch, and the kernels",
    ]
    return "\n".join(lines) + "\n"


def _summary(command: Entry) -> str:
    return command.summary + (f" (also: {command.long_name})" if command.long_name else "")


if __name__ == "__main__":
    sys.exit(main())
