"""Preparation of a run: its tokenizer and token files, made if missing, and the completed config."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from transformerlm.config import TrainConfig
from transformerlm.config.generation import AUTO_START
from transformerlm.distributed.ranks import Ranks
from transformerlm.errors import ConfigError, Key, Problem
from transformerlm.progress import Reporter
from transformerlm.schema import are_known
from transformerlm.storage.files import remove_directory
from transformerlm.training.timers import duration

if TYPE_CHECKING:
    from transformerlm.data import TokenData
    from transformerlm.evaluation.xz import XzBaseline
    from transformerlm.recipe import Choice
    from transformerlm.tokenizer import Tokenizer


FEW_DOCUMENTS = 20
"""Documents below which a model has hardly seen their beginnings; `data/split.py` calls as many few."""
MIN_TOLD_SECONDS = 1.0
"""Duration from which preparing the text is told apart from the run's time; opening its files is shorter."""


MIN_TOKENS = 16
"""Tokens to train on without which nothing can be chosen."""


class Prepared(NamedTuple):
    """A config with a known vocabulary size, the tokenizer, the token files, and a baseline for them."""

    config: TrainConfig
    tokenizer: Tokenizer
    data: TokenData
    xz: XzBaseline | None = None
    """Bits per byte of xz on the validation text; only on rank 0."""
    seconds: float = 0.0
    """Time of reading text and making tokens, which is not part of the run's; 0 if there was little to do."""
    choice: Choice | None = None
    """Why the config has the values that were "auto"; only on rank 0 of a run that begins."""


def prepare(config: TrainConfig, reporter: Reporter, ranks: Ranks) -> Prepared:
    """Prepare a run: rank 0 makes tokenizer and token files if they are missing, then all ranks open them."""
    # Imported only now: NumPy takes long.
    from transformerlm.training.shares import with_passes, with_shares

    before, xz = time.perf_counter(), None
    with ranks.while_rank_0_works():
        if ranks.is_main:
            tokenizer, data = _make(config, reporter)
    with ranks.collective_errors():
        if not ranks.is_main:
            tokenizer, data = _open(config)
    complete = with_vocabulary(config, tokenizer, data)
    data = with_shares(complete, data)
    complete = with_start(with_passes(complete, data), data)
    with ranks.while_rank_0_works():
        if ranks.is_main:
            xz = _baseline(config, tokenizer, data, reporter)
    seconds = time.perf_counter() - before
    if seconds < MIN_TOLD_SECONDS:
        return Prepared(complete, tokenizer, data, xz)
    if config.training.max_time is not None:
        what = f"in addition to the {config.training.max_time} of training"
        reporter.say(f"reading text and making tokens: {duration(seconds)}, {what}")
    return Prepared(complete, tokenizer, data, xz, seconds)


def with_start(config: TrainConfig, data: TokenData) -> TrainConfig:
    """Return the config with what an empty prompt starts from, which the text decides."""
    if config.generation.start != AUTO_START:
        return config
    is_known = config.data.document_separator and data.train.num_documents >= FEW_DOCUMENTS
    generation = dataclasses.replace(config.generation, start="" if is_known else "\n")
    return dataclasses.replace(config, generation=generation)


def _baseline(
    config: TrainConfig, tokenizer: Tokenizer, data: TokenData, reporter: Reporter
) -> XzBaseline | None:
    from transformerlm.evaluation.xz import xz_baseline

    return xz_baseline(data, tokenizer, config.data.document_separator, reporter)


def _make(config: TrainConfig, reporter: Reporter) -> tuple[Tokenizer, TokenData]:
    """Make or reuse both; a start that is refused because the text is too short leaves nothing."""
    from transformerlm.data import fill_placeholders, prepare_data, prepare_tokenizer
    from transformerlm.data.build import TooFewTokensError

    tokenizer_dir = Path(fill_placeholders(config.tokenizer.tokenizer_dir, config.data))
    # The token files of a mixture's first corpora may be made when another one is too short.
    is_own = not tokenizer_dir.exists() and not config.data.mixture
    tokenizer = prepare_tokenizer(config.data, config.tokenizer, reporter)
    # A context that is chosen will fit into the text.
    min_tokens = config.model.context_length + 1 if are_known(config.model.context_length) else MIN_TOKENS
    try:
        data = prepare_data(config.data, config.tokenizer, tokenizer, reporter, min_tokens=min_tokens)
    except TooFewTokensError as error:
        if is_own:  # learned a moment ago, from a text that is about to become longer
            remove_directory(tokenizer_dir)
        raise ConfigError([_too_few_tokens(config, error.directory.name, error.num_tokens)]) from None
    return tokenizer, data


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
    from transformerlm.data import files_of

    asked, needed = config.model.vocab_size, tokenizer.vocab_size
    problems = []
    if asked is not None and asked < needed:
        what = f"expected at least the tokenizer's {needed} ids, got {asked}"
        problems.append(Problem(Key("model", "vocab_size"), what))
    name, shortest = min(files_of(data.train).items(), key=lambda named: named[1].num_tokens)
    if are_known(config.model.context_length) and config.model.context_length >= shortest.num_tokens:
        problems.append(_too_few_tokens(config, name, shortest.num_tokens))
    if problems:
        raise ConfigError(problems)
    tokenizer_config = dataclasses.replace(
        config.tokenizer, vocab_size=config.tokenizer.vocab_size or tokenizer.vocab_size
    )
    model = dataclasses.replace(config.model, vocab_size=asked or needed)
    return dataclasses.replace(config, tokenizer=tokenizer_config, model=model)


def _too_few_tokens(config: TrainConfig, corpus: str, num_tokens: int) -> Problem:
    of = f" of the corpus {corpus}" if config.data.mixture else ""
    what = f"expected at most {num_tokens - 1}, for the {num_tokens} tokens to train on{of}"
    return Problem(Key("model", "context_length"), f"{what}, got {config.model.context_length}")
