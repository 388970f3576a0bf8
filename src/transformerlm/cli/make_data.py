"""transformerlm-make-data: from text to token files, with the tokenizer made first where it is missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from transformerlm.cli.common import run_command
from transformerlm.cli.terminal import Terminal
from transformerlm.config import MakeDataConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The console command."""
    description = "Encode a corpus into train.memmap and val.memmap, through worker processes."
    return run_command(MakeDataConfig, make_data, description=description, argv=argv)


def make_data(config: MakeDataConfig) -> None:
    """Make the token files, unless those that are there were made in the same way."""
    from transformerlm.data import prepare_data, prepare_tokenizer

    terminal = Terminal()
    tokenizer = prepare_tokenizer(config.data, config.tokenizer, terminal)
    prepare_data(config.data, config.tokenizer, tokenizer, terminal)


if __name__ == "__main__":
    sys.exit(main())
