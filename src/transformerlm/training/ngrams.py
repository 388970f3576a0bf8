"""The memory of n-grams of a run: made of its training tokens before it trains, judged at its end."""

from __future__ import annotations

import hashlib
import math
import time
from functools import partial

from transformerlm.checkpoint.run_directory import RunDirectory
from transformerlm.config import TrainConfig
from transformerlm.data import TokenData, TokenFile, files_of
from transformerlm.errors import CheckpointError
from transformerlm.evaluation.held_out import nats_of
from transformerlm.evaluation.loss import MeanLoss
from transformerlm.ngrams import NgramIndex, NgramMemory, mixed_nats
from transformerlm.ngrams.index import MAX_TOKENS
from transformerlm.nn import TransformerLM
from transformerlm.progress import Reporter
from transformerlm.runtime import Runtime
from transformerlm.training.validating import of_mixture

TRIAL_TOKENS = 4096
"""Tokens that are looked up to find out how long all will take."""


def make_memory(
    config: TrainConfig, data: TokenData, run: RunDirectory, reporter: Reporter
) -> NgramMemory | None:
    """Return the memory that [training].ngram_memory asks for, made now or by an earlier start of the run.

    Raises:
        OutputError: it cannot be written.
    """
    if not config.training.ngram_memory:
        return None
    if data.train.num_tokens > MAX_TOKENS:
        what = f"{data.train.num_tokens:,} tokens, more than {MAX_TOKENS:,}"
        reporter.say(f"no memory of n-grams: the training text has {what}")
        return None
    files = files_of(data.train).values()
    made_from = hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()
    try:
        index = NgramIndex.read(run.ngrams)
    except CheckpointError as error:
        reporter.say(f"{error}: made again")
        index = None
    if index is None or index.made_from != made_from:
        about = {"made_from": made_from, "tokenizer": data.train.fingerprint}
        index = NgramIndex.build([file.tokens for file in files], config.model.vocabulary_rows, **about)
        index.save(run.ngrams)
    return NgramMemory(index)


def scoring_seconds(memory: NgramMemory, data: TokenData) -> float:
    """Return the time that looking up the validation tokens will take; compiles the kernels if needed."""
    if data.val is None:
        return 0.0
    file = max(files_of(data.val).values(), key=lambda file: file.num_tokens)
    some = file.tokens[:TRIAL_TOKENS]
    memory.score(some[:2])
    start = time.perf_counter()
    memory.score(some)
    return (time.perf_counter() - start) / max(1, len(some)) * data.val.num_tokens


def loss_with_memory(
    model: TransformerLM, memory: NgramMemory, data: TokenData, separator: int | None, runtime: Runtime
) -> MeanLoss | None:
    """Return the loss on the validation tokens, in windows as in training, mixed with the memory.

    Args:
        separator: the id that ends documents.
    """
    if data.val is None:
        return None
    judge = partial(_of_file, model, memory, separator=separator, runtime=runtime)
    found = {name: judge(file) for name, file in files_of(data.val).items()}
    return of_mixture(found, data) if data.shares else found[""]


def _of_file(
    model: TransformerLM, memory: NgramMemory, file: TokenFile, separator: int | None, runtime: Runtime
) -> MeanLoss:
    nats = nats_of(model, file.tokens, runtime)
    weights, totals = memory.score_documents(file.tokens, separator)
    loss = float(mixed_nats(nats, weights[1:], totals[1:]).mean())
    return MeanLoss(loss, loss / math.log(2) * file.num_tokens / file.num_bytes)
