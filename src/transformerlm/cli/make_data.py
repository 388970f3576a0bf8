"""transformerlm-make-data: from text to token files, with the tokenizer made first where it is missing.

`torchrun -m transformerlm.cli.make_data` divides the work among ranks, of one machine or several.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from transformerlm.cli.common import run_command
from transformerlm.cli.ranks import on_ranks
from transformerlm.cli.terminal import Terminal
from transformerlm.config import MakeDataConfig
from transformerlm.distributed import agreement
from transformerlm.world import World


def main(argv: Sequence[str] | None = None) -> int:
    """The console command."""
    description = "Encode a corpus into train.memmap and val.memmap, through worker processes."
    return on_ranks(lambda: run_command(MakeDataConfig, make_data, description=description, argv=argv))


def make_data(config: MakeDataConfig) -> None:
    """Make the token files, unless those that are there were made in the same way."""
    from transformerlm.data.prepare import make_token_files, prepare_tokenizer

    world, terminal = World.from_environment(), Terminal()
    with agreement(world):
        tokenizer = prepare_tokenizer(config.data, config.tokenizer, terminal, world)
        make_token_files(config.data, config.tokenizer, tokenizer, terminal, world)


if __name__ == "__main__":
    sys.exit(main())
