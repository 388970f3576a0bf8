"""transformerlm-data merge: several token files in one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from transformerlm.cli.command import Command, Option, run_command
from transformerlm.cli.terminal import Terminal
from transformerlm.config import MergeConfig
from transformerlm.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(COMMAND, argv)


def merge(config: MergeConfig) -> None:
    """Merge, and say what was written.

    Raises:
        ConfigError: there are fewer than two files, or no output.
    """
    if problems := list(config.merge.missing()):
        raise ConfigError(problems)
    # Imported only now: numpy takes a moment.
    from transformerlm.data.merge import merge

    terminal, section = Terminal(), config.merge
    paths = [Path(path).expanduser() for path in section.paths]
    for file in merge(paths, Path(section.output or "").expanduser(), terminal):
        terminal.say(f"{file.path}: written: {file.num_tokens:,} tokens, {file.num_documents:,} documents")


COMMAND = Command(
    MergeConfig,
    merge,
    program="transformerlm-data merge",
    description=(
        "Write token files of one tokenizer one after the other into a new one; of folders,\n"
        "train.memmap and val.memmap. The files that are merged are verified, and stay as they are."
    ),
    options=(Option("output", ("merge.output",)),),
    positional=Option("PATH", ("merge.paths",), repeated=True),
)


if __name__ == "__main__":
    sys.exit(main())
