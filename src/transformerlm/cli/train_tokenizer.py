"""transformerlm-train-tokenizer: from text to vocab.json and merges.txt.

`torchrun -m transformerlm.cli.train_tokenizer` divides the work among ranks, of one machine or several.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from transformerlm.cli.command import Mode, run_command
from transformerlm.cli.terminal import Terminal
from transformerlm.cli.torchrun import on_ranks
from transformerlm.config import TrainTokenizerConfig
from transformerlm.distributed.collectives import collective_errors
from transformerlm.distributed.world import World


def main(argv: Sequence[str] | None = None) -> int:
    """The console command."""
    return on_ranks(
        lambda: run_command(
            TrainTokenizerConfig,
            train_tokenizer,
            description="Train a byte-level BPE tokenizer on the training part of a corpus.",
            modes=[Mode("verify", verify)],
            argv=argv,
        )
    )


def train_tokenizer(config: TrainTokenizerConfig) -> None:
    """Train the tokenizer, unless the one that is there was trained in the same way."""
    from transformerlm.data import prepare_tokenizer

    world = World.from_environment()
    with collective_errors(world):
        prepare_tokenizer(config.data, config.tokenizer, Terminal(), world)


def verify(config: TrainTokenizerConfig) -> None:
    """Train or reuse the tokenizer, then check that each merge was of the most frequent pair."""
    from transformerlm.data import prepare_tokenizer
    from transformerlm.data.verify import verify_tokenizer

    world, terminal = World.from_environment(), Terminal()
    with collective_errors(world):
        tokenizer = prepare_tokenizer(config.data, config.tokenizer, terminal, world)
    if world.is_main:
        verify_tokenizer(config.data, config.tokenizer, tokenizer, terminal)


if __name__ == "__main__":
    sys.exit(main())
