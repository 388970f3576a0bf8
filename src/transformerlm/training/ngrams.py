"""The memory of n-grams of a run: made of its training tokens before it trains, judged at its end."""

from __future__ import annotations

import math
import time
from functools import partial

import numpy as np
import torch

from transformerlm.checkpoint.run_directory import RunDirectory, identity, memory_source
from transformerlm.config import TrainConfig
from transformerlm.data import TokenData, TokenFile, files_of
from transformerlm.errors import CheckpointError, TransformerLMError, first_line
from transformerlm.evaluation.held_out import nats_of
from transformerlm.evaluation.loss import MeanLoss
from transformerlm.kernels.dispatch import num_threads
from transformerlm.ngrams import NgramIndex, NgramMemory
from transformerlm.ngrams.index import MAX_TOKENS, remove
from transformerlm.nn import TransformerLM
from transformerlm.progress import Reporter, readable
from transformerlm.runtime import Runtime
from transformerlm.training.validating import of_mixture

SORTING_SECONDS = 1e-6
"""Time that a training token takes to be sorted, on a slow core."""
LARGEST_SHARE = 0.05
"""Share of a run's time that sorting may take."""
TRIAL_TOKENS = 4096
"""Tokens that are looked up to find out how long all will take."""


def make_memory(
    config: TrainConfig, data: TokenData, run: RunDirectory, reporter: Reporter
) -> NgramMemory | None:
    """Return the memory that [training].ngram_memory asks for, made now or by an earlier start of the run.

    One that belongs to other tokens, or is not asked for, is removed. If it cannot be written, a warning says
    so, and it is there for this start alone.
    """
    reason = why_none(config, data.train.num_tokens)
    if reason is not None:
        if reason:
            reporter.say(f"no memory of n-grams is kept: {reason}")
        if remove(run.ngrams):
            reporter.say(f"{run.ngrams}: removed, since the run keeps no memory of n-grams now")
        return None
    source = memory_source(identity(config, data))
    try:
        index = NgramIndex.read(run.ngrams)
    except CheckpointError as error:
        reporter.say(f"{first_line(error).partition('; remove')[0]}; it is made again")
        index = None
    if index is None or not index.is_of(*source, config.model.vocabulary_rows):
        index = _made(config, data, source)
        _save(index, run, reporter)
    return NgramMemory(index)


def why_none(config: TrainConfig, num_tokens: int) -> str | None:
    """Return why a run keeps no memory, "" if it is not asked for one; None if it keeps one.

    Args:
        num_tokens: training tokens.
    """
    if not config.training.ngram_memory:
        return ""
    if num_tokens > MAX_TOKENS:
        return f"the training text has {num_tokens:,} tokens, more than {MAX_TOKENS:,}"
    seconds, max_seconds = num_tokens * SORTING_SECONDS, config.training.max_seconds
    if max_seconds is not None and seconds > LARGEST_SHARE * max_seconds:
        return f"sorting {num_tokens:,} tokens may take {seconds:.1f} s of {config.training.max_time}"
    return None


def _made(config: TrainConfig, data: TokenData, source: tuple[str, str]) -> NgramIndex:
    tokens = [file.tokens for file in files_of(data.train).values()]
    made_from, tokenizer = source
    return NgramIndex.build(tokens, config.model.vocabulary_rows, made_from=made_from, tokenizer=tokenizer)


def _save(index: NgramIndex, run: RunDirectory, reporter: Reporter) -> None:
    try:
        index.save(run.ngrams)
    except (OSError, TransformerLMError) as error:
        reporter.say(f"warning: {run.ngrams}: the memory of n-grams is not kept: {error}")
        return
    size = readable(index.tokens.nbytes + index.order.nbytes)
    reporter.say(f"memory of n-grams: {run.ngrams} ({size}), which holds the training text")


def scoring_seconds(memory: NgramMemory, data: TokenData, separator: int | None) -> float:
    """Return the time that it will take to look up the validation tokens and to mix what is found."""
    if data.val is None:
        return 0.0
    file = max(files_of(data.val).values(), key=lambda file: file.num_tokens)
    some = file.tokens[:TRIAL_TOKENS]
    start = time.perf_counter()
    memory.mixed_nats(np.ones(max(0, len(some) - 1)), some, separator, num_threads())
    return (time.perf_counter() - start) / max(1, len(some)) * data.val.num_tokens


def judge_memory(
    model: TransformerLM,
    memory: NgramMemory,
    data: TokenData,
    separator: int | None,
    runtime: Runtime,
    reporter: Reporter,
) -> MeanLoss | None:
    """Return the loss on the validation tokens, in windows as in training, mixed with the memory.

    None without validation text, and where it fails, which a warning tells: the run itself is done.

    Args:
        separator: the id that ends documents.
    """
    if data.val is None:
        return None
    try:
        judge = partial(_of_file, model, memory, separator=separator, runtime=runtime)
        found = {name: judge(file) for name, file in files_of(data.val).items()}
    except (TransformerLMError, OSError, RuntimeError, torch.OutOfMemoryError) as error:
        reporter.say(f"warning: the memory of n-grams is not judged: {first_line(error)}")
        return None
    return of_mixture(found, data) if data.shares else found[""]


def _of_file(
    model: TransformerLM, memory: NgramMemory, file: TokenFile, separator: int | None, runtime: Runtime
) -> MeanLoss:
    nats = nats_of(model, file.tokens, runtime)
    loss = float(memory.mixed_nats(nats, file.tokens, separator, num_threads()).mean())
    return MeanLoss(loss, loss / math.log(2) * file.num_tokens / file.num_bytes)
