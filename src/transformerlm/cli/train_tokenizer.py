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
    modes = {"verify": verify}
    return run_command(TrainTokenizerConfig, train_tokenizer, description=description, modes=modes, argv=argv)


def train_tokenizer(config: TrainTokenizerConfig) -> None:
    """Train the tokenizer, unless the one that is there was trained in the same way."""
    from transformerlm.data import prepare_tokenizer

    prepare_tokenizer(config.data, config.tokenizer, Terminal())


def verify(config: TrainTokenizerConfig) -> None:
    """Train or reuse the tokenizer, then check that each merge was of the most frequent pair."""
    from transformerlm.data import prepare_tokenizer
    from transformerlm.data.verify import verify_tokenizer

    terminal = Terminal()
    tokenizer = prepare_tokenizer(config.data, config.tokenizer, terminal)
    verify_tokenizer(config.data, config.tokenizer, tokenizer, terminal)


if __name__ == "__main__":
    sys.exit(main())
