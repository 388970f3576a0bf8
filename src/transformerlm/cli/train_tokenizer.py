"""transformerlm-train-tokenizer: train a tokenizer on text and write vocab.json and merges.txt.

Under torchrun, rank 0 does the work.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from transformerlm.cli.command import Command, Mode, run_command
from transformerlm.cli.terminal import Terminal
from transformerlm.cli.torchrun import on_ranks
from transformerlm.config import TrainTokenizerConfig
from transformerlm.distributed.collectives import ranks_from_environment


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return on_ranks(lambda: run_command(COMMAND, argv))


def train_tokenizer(config: TrainTokenizerConfig) -> None:
    """Train the tokenizer, or reuse an existing one that matches the config."""
    from transformerlm.data import prepare_tokenizer

    ranks = ranks_from_environment()
    with ranks.while_rank_0_works():
        if ranks.is_main:
            prepare_tokenizer(config.data, config.tokenizer, Terminal())


def verify(config: TrainTokenizerConfig) -> None:
    """Train or reuse the tokenizer, then check that each merge was of the most frequent pair."""
    from transformerlm.data import prepare_tokenizer
    from transformerlm.data.verify import verify_tokenizer

    terminal, ranks = Terminal(), ranks_from_environment()
    with ranks.while_rank_0_works():
        if ranks.is_main:
            tokenizer = prepare_tokenizer(config.data, config.tokenizer, terminal)
            verify_tokenizer(config.data, config.tokenizer, tokenizer, terminal)


COMMAND = Command(
    TrainTokenizerConfig,
    train_tokenizer,
    program="transformerlm-train-tokenizer",
    description="Train a byte-level BPE tokenizer on the training part of a corpus.",
    modes=(Mode("verify", verify),),
)


if __name__ == "__main__":
    sys.exit(main())
