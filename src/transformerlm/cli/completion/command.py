"""transformerlm completion: print the script for a shell."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import transformerlm
from transformerlm.cli.arguments import COMMAND_LINE
from transformerlm.cli.completion import bash, fish, zsh
from transformerlm.cli.completion.words import all_commands
from transformerlm.cli.error_report import report
from transformerlm.cli.program import program_name
from transformerlm.cli.standard_streams import prepare_streams, print_text
from transformerlm.cli.version import version_text
from transformerlm.errors import ConfigError, Key, Problem, shortened

SHELLS = {"bash": bash.script, "zsh": zsh.script, "fish": fish.script}
OWN_NAME = "transformerlm completion"

HELP = """Print a script that completes commands, options and values in a shell.

usage: {program} bash|zsh|fish

bash: add this line to ~/.bashrc
  source <({program} bash)
zsh: add this line to ~/.zshrc, after compinit
  source <({program} zsh)
fish: add this line to ~/.config/fish/config.fish
  {program} fish | source

Where the shell must not start Python when it starts, write the script to a file, `source` that, and
write it again after an update. It completes `transformerlm` and the programs beside it, such as
transformerlm-train; completing itself starts no Python.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the script for the shell that the one argument names, and return the exit status."""
    is_process = argv is None
    prepare_streams(restart=is_process)
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        print_text(_text(words, program_name(OWN_NAME, is_process)))
    except (ConfigError, OSError, KeyboardInterrupt) as error:
        return report(error, debug="--debug" in words)
    return 0


def _text(words: Sequence[str], program: str) -> str:
    """Return what is asked for.

    Raises:
        ConfigError: the words are not the name of one shell.
    """
    if {"--help", "-h", "--help=all"} & set(words):
        return HELP.format(program=program)
    if "--version" in words:
        return version_text()
    names = [word for word in words if word != "--debug"]
    if len(names) != 1 or names[0] not in SHELLS:
        got = shortened(" ".join(names)) or "none"
        what = f"expected one shell, bash, zsh or fish, got {got}; how to use it: {program} --help"
        raise ConfigError([Problem(Key(), what, source=COMMAND_LINE)])
    made_by = f"of transformerlm {transformerlm.__version__}, made by: transformerlm completion {names[0]}"
    return SHELLS[names[0]](all_commands(), made_by)
