"""transformerlm-make-data: make token files from text, and the tokenizer first if it is missing.

An interrupted build is continued when the command is started again. Under torchrun, rank 0 does the work.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from transformerlm.cli.command import Mode, run_command
from transformerlm.cli.terminal import Terminal
from transformerlm.cli.torchrun import on_ranks
from transformerlm.config import MakeDataConfig
from transformerlm.distributed.collectives import ranks_from_environment

DESCRIPTION = "Encode a corpus into train.memmap and val.memmap, through worker processes."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the console command."""
    return run(argv, "transformerlm-make-data", DESCRIPTION)


def run(argv: Sequence[str] | None, program: str, description: str) -> int:
    """Run the command under one of its names."""
    return on_ranks(
        lambda: run_command(
            MakeDataConfig,
            make_data,
            description=description,
            modes=[Mode("verify", verify)],
            argv=argv,
            program=program,
        )
    )


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


if __name__ == "__main__":
    sys.exit(main())
