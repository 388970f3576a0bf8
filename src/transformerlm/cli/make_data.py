"""transformerlm-make-data: make token files from text, and the tokenizer first if it is missing.

An interrupted build is continued when the command is started again. Under torchrun, rank 0 does the work.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from transformerlm.cli.command import Command, Mode, run_command
from transformerlm.cli.terminal import Terminal
from transformerlm.cli.torchrun import on_ranks
from transformerlm.config import MakeDataConfig
from transformerlm.distributed.collectives import ranks_from_environment


def main(argv: Sequence[str] | None = None, command: Command[MakeDataConfig] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        command: the command under another name; None: `COMMAND`.
    """
    return on_ranks(lambda: run_command(command or COMMAND, argv))


def make_data(config: MakeDataConfig) -> None:
    """Make the token files, or reuse existing ones that match the config."""
    from transformerlm.data import prepare_data, prepare_tokenizer

    terminal, ranks = Terminal(), ranks_from_environment()
    with ranks.while_rank_0_works():
        if ranks.is_main:
            tokenizer = prepare_tokenizer(config.data, config.tokenizer, terminal)
            prepare_data(config.data, config.tokenizer, tokenizer, terminal)


def verify(config: MakeDataConfig) -> None:
    """Make or reuse the token files, then read them all and compare them with their checksums."""
    from transformerlm.data.verify import verify_token_files

    make_data(config)
    ranks = ranks_from_environment()
    with ranks.while_rank_0_works():
        if ranks.is_main:
            verify_token_files(config.data, Terminal())


COMMAND = Command(
    MakeDataConfig,
    make_data,
    program="transformerlm-make-data",
    description="Encode a corpus into train.memmap and val.memmap, through worker processes.",
    modes=(Mode("verify", verify),),
)


if __name__ == "__main__":
    sys.exit(main())
