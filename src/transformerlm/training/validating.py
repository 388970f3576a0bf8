"""Evaluation on the validation split: of one corpus, or of each corpus of a mixture and of them all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial

from transformerlm.data import TokenData, TokenFile, files_of, validation_windows
from transformerlm.data.sampler import Batch
from transformerlm.evaluation.loss import MeanLoss, evaluate, rank_share
from transformerlm.logging import names
from transformerlm.training.learner import Learner
from transformerlm.training.timers import Clock

TRIALS = 2
"""Number of times that a trial is repeated after its first, slow one."""
TRIAL_TOKENS = 2048
"""Tokens of a validation that are tried: a fraction of a step if that takes long, else a small time."""


def evaluate_split(learner: Learner, data: TokenData) -> tuple[MeanLoss, dict[str, MeanLoss]]:
    """Return the loss on the whole validation split, and on each corpus of a mixture by its name.

    That on a mixture is of tokens as they are drawn in training: see `of_mixture`.
    """
    assert data.val is not None
    found = {
        name: learner.micro_batches.run(partial(evaluate_file, learner, file))
        for name, file in files_of(data.val).items()
    }
    return (of_mixture(found, data), found) if data.shares else (found[""], {})


def of_mixture(found: Mapping[str, MeanLoss], data: TokenData) -> MeanLoss:
    """Return the loss on a mixture from those of its corpora, which count as in training.

    With shares s, losses l and bytes per token b of the validation texts, the loss per token is sum(s l), and
    the bits per byte are sum(s l) / ln 2 / sum(s b): those of text that is drawn as training text is.
    """
    assert data.val is not None
    loss = sum(share * found[name].loss for name, share in data.shares.items())
    tokens, num_bytes = data.size_of(data.val)
    return MeanLoss(loss, loss / math.log(2) * tokens / num_bytes)


def evaluate_file(
    learner: Learner, data: TokenFile, batch_size: int, num_tokens: int | None = None
) -> MeanLoss:
    """Return the mean loss on a token file, `batch_size` windows at a time; each rank computes its part.

    Args:
        num_tokens: of the text, from its beginning; None: all.
    """
    context_length, ranks = learner.config.model.context_length, learner.ranks
    device = learner.runtime.device
    num_tokens = num_tokens or data.num_tokens
    first, last, padding_passes = rank_share(num_tokens, context_length, batch_size, ranks.world)
    batches: Iterable[Batch] = ()
    if last > first or num_tokens < 2:  # too few tokens are refused by validation_windows
        share = data.tokens[first : last + 1]
        batches = validation_windows(share, context_length, batch_size, device)
    tokens_per_byte = data.num_tokens / data.num_bytes
    return evaluate(learner.forward, batches, learner.runtime, tokens_per_byte, ranks, padding_passes)


def measured_seconds(learner: Learner, data: TokenData, clock: Clock) -> float | None:
    """Return the seconds of a validation, from a part of it; None without validation text."""
    if data.val is None:
        return None
    context_length, ranks = learner.config.model.context_length, learner.ranks
    file = max(files_of(data.val).values(), key=lambda file: file.num_tokens)
    num_windows = min(learner.micro_batches.size, max(1, TRIAL_TOKENS // context_length))
    num_tokens = min(file.num_tokens, num_windows * ranks.size * context_length + 1)
    start = 0.0
    for trial in range(1 + TRIALS):
        if trial == 1:  # the first one is slow
            start = clock.elapsed
        learner.micro_batches.run(partial(evaluate_file, learner, file, num_tokens=num_tokens))
    (found,), *_ = ranks.all_gather_numbers([(clock.elapsed - start) / TRIALS])
    return found * data.val.num_tokens / num_tokens


def validation_values(found: MeanLoss, corpora: Mapping[str, MeanLoss]) -> dict[str, float]:
    """Return what is logged of a validation."""
    values = {names.VAL_LOSS: found.loss, names.VAL_PERPLEXITY: found.perplexity}
    values |= {names.VAL_BITS_PER_BYTE: found.bits_per_byte}
    bits = {name: own.bits_per_byte for name, own in corpora.items()}
    return values | {names.of_corpus(names.VAL_BITS_PER_BYTE, name): value for name, value in bits.items()}
