"""Preparation of a run: its tokenizer and token files, made if missing, and the completed config."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from transformerlm.config import TrainConfig
from transformerlm.distributed.ranks import Ranks
from transformerlm.errors import ConfigError, Key, Problem
from transformerlm.progress import Reporter

if TYPE_CHECKING:
    from transformerlm.data import TokenData
    from transformerlm.tokenizer import Tokenizer


class Prepared(NamedTuple):
    """A config with a known vocabulary size, the tokenizer, and the token files."""

    config: TrainConfig
    tokenizer: Tokenizer
    data: TokenData


def prepare(config: TrainConfig, reporter: Reporter, ranks: Ranks) -> Prepared:
    """Prepare a run: rank 0 makes tokenizer and token files if they are missing, then all ranks open them."""
    with ranks.while_rank_0_works():
        if ranks.is_main:
            tokenizer, data = _make(config, reporter)
    with ranks.collective_errors():
        if not ranks.is_main:
            tokenizer, data = _open(config)
    return Prepared(with_vocabulary(config, tokenizer, data), tokenizer, data)


def _make(config: TrainConfig, reporter: Reporter) -> tuple[Tokenizer, TokenData]:
    from transformerlm.data import prepare_data, prepare_tokenizer

    tokenizer = prepare_tokenizer(config.data, config.tokenizer, reporter)
    return tokenizer, prepare_data(config.data, config.tokenizer, tokenizer, reporter)


def _open(config: TrainConfig) -> tuple[Tokenizer, TokenData]:
    from transformerlm.data import TokenData, fill_placeholders
    from transformerlm.tokenizer import Tokenizer

    tokenizer_dir = fill_placeholders(config.tokenizer.tokenizer_dir, config.data)
    token_dir = fill_placeholders(config.data.token_dir, config.data)
    return Tokenizer.from_dir(Path(tokenizer_dir)), TokenData.open(config.data, Path(token_dir))


def with_vocabulary(config: TrainConfig, tokenizer: Tokenizer, data: TokenData) -> TrainConfig:
    """Return the config with the vocabulary sizes filled in, that of the model by default the tokenizer's.

    Raises:
        ConfigError: a model with fewer rows than the tokenizer has ids, or a context longer than the data.
    """
    asked, needed = config.model.vocab_size, tokenizer.vocab_size
    length, tokens = config.model.context_length, data.train.num_tokens
    problems = []
    if asked is not None and asked < needed:
        what = f"expected at least the tokenizer's {needed} ids, got {asked}"
        problems.append(Problem(Key("model", "vocab_size"), what))
    if length >= tokens:
        what = f"expected at most {tokens - 1}, for the {tokens} tokens to train on"
        problems.append(Problem(Key("model", "context_length"), f"{what}, got {length}"))
    if problems:
        raise ConfigError(problems)
    tokenizer_config = dataclasses.replace(
        config.tokenizer, vocab_size=config.tokenizer.vocab_size or tokenizer.vocab_size
    )
    model = dataclasses.replace(config.model, vocab_size=asked or needed)
    return dataclasses.replace(config, tokenizer=tokenizer_config, model=model)
