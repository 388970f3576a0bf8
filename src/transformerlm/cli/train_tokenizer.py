"""transformerlm-train-tokenizer: from text to vocab.json and merges.txt."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from transformerlm.cli.common import run_command
from transformerlm.cli.terminal import Terminal
from transformerlm.config import TrainTokenizerConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The console command."""
    description = "Train a byte-level BPE tokenizer on the training part of a corpus."
    return run_command(TrainTokenizerConfig, train_tokenizer, description=description, argv=argv)


def train_tokenizer(config: TrainTokenizerConfig) -> None:
    """Train the tokenizer, unless the one that is there was trained in the same way."""
    from transformerlm.data import prepare_tokenizer

    prepare_tokenizer(config.data, config.tokenizer, Terminal())


if __name__ == "__main__":
    sys.exit(main())
