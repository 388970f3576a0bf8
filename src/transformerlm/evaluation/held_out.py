"""Interval of the bits per byte on a run's validation tokens: their spread over the held-out documents.

The loss is that of a validation during training: the token file in windows of the context's length, side by
side. A run records its mean alone; here it is added up by document, in a part of the file that is scored in
seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from transformerlm.checkpoint.own_settings import own_table
from transformerlm.data import TokenFile, validation_windows
from transformerlm.evaluation.documents import token_nats
from transformerlm.evaluation.statistics import Counts, Estimate, Floats, ratio
from transformerlm.infer.generate import evaluation_mode
from transformerlm.language_model import LanguageModel
from transformerlm.nn import TransformerLM
from transformerlm.nn.accounting import flops_per_token
from transformerlm.nn.fused import with_kernels
from transformerlm.runtime import Runtime

MAX_FLOPS = 4e11
"""Work of scoring: seconds on most CPUs, on a slow core half a minute. The number of tokens follows from the
model's size and not from a clock, so that the result is the same again."""
MAX_TOKENS = 2**20
"""Tokens that are scored at most."""
TOKENS_AT_A_TIME = 4096
"""Tokens of a forward pass."""
MIN_DOCUMENTS = 10
"""Documents from which their spread gives the interval; of fewer, that of windows of the context's length."""


@dataclass(frozen=True)
class HeldOut:
    """Bits per byte of validation tokens, and their spread."""

    bits_per_byte: Estimate
    num_tokens: int
    """Tokens that were scored, from the beginning of the file on."""
    is_whole: bool
    """True if that is the whole file."""
    num_units: int
    unit: str
    """What the spread is over: "documents", or "sections" of a text of few documents."""


def held_out_estimate(lm: LanguageModel, val: TokenFile, max_flops: float = MAX_FLOPS) -> HeldOut | None:
    """Score validation tokens; return None if there are too few of them for an interval.

    Args:
        lm: the model, with float32 weights.
        val: the validation tokens, of the model's tokenizer.
        max_flops: limit of the work.
    """
    context_length = lm.model.config.context_length
    tokens = val.tokens[: max_tokens(lm, max_flops)]
    if len(tokens) <= context_length:
        return None
    nats = nats_of(with_kernels(lm.model) if lm.runtime.kernels else lm.model, tokens, lm.runtime)
    num_bytes = bytes_per_id(lm)[tokens[1:]]
    groups, unit = document_of(tokens, end_id(lm)), "documents"
    if groups[-1] + 1 < MIN_DOCUMENTS:
        groups, unit = np.arange(len(nats)) // context_length, "sections"
    bits = np.bincount(groups, nats / math.log(2))
    size = np.bincount(groups, num_bytes)
    if len(bits) < 2 or not size.any() or not np.isfinite(nats).all():
        return None
    return HeldOut(ratio(bits, size), len(tokens), len(tokens) == val.num_tokens, len(bits), unit)


def stratified(found: Mapping[str, HeldOut], weights: Mapping[str, float]) -> HeldOut:
    """Return the estimate over several corpora that count with fixed weights: sum(w b) / sum(w).

    Its standard error is sqrt(sum(w^2 e^2)) / sum(w), since the corpora are drawn independently.

    Source: Cochran, "Sampling Techniques", 3rd edition, 1977, section 5.4.
    """
    total = sum(weights.values())
    value = sum(weight * found[name].bits_per_byte.value for name, weight in weights.items())
    errors = [weight * found[name].bits_per_byte.standard_error for name, weight in weights.items()]
    units = {own.unit for own in found.values()}
    return HeldOut(
        Estimate(value / total, math.hypot(*errors) / total),
        sum(own.num_tokens for own in found.values()),
        all(own.is_whole for own in found.values()),
        sum(own.num_units for own in found.values()),
        "documents" if units == {"documents"} else "sections",
    )


def max_tokens(lm: LanguageModel, max_flops: float) -> int:
    """Return the number of tokens that can be scored with so many floating-point operations."""
    config = lm.model.config
    return min(MAX_TOKENS, int(max_flops / flops_per_token(config, config.context_length)))


def end_id(lm: LanguageModel) -> int | None:
    """Return the id that ended documents when the model was trained; None if nothing did."""
    separator = own_table(lm.checkpoint.about, "data").get("document_separator")
    return lm.tokenizer.special_token_ids.get(str(separator))


def bytes_per_id(lm: LanguageModel) -> Counts:
    """Return the bytes of text that each id stands for, `[vocab_size]`; none for the end of a document."""
    sizes = np.zeros(lm.model.config.vocabulary_rows, np.int64)
    for token, token_id in lm.tokenizer.special_token_ids.items():
        sizes[token_id] = len(token.encode())
    for token_id, piece in lm.tokenizer.vocab.items():
        sizes[token_id] = len(piece)
    if (end := end_id(lm)) is not None:
        sizes[end] = 0
    return sizes


def document_of(tokens: NDArray[np.integer], separator: int | None) -> Counts:
    """Return the number of the document that each target, `tokens[1:]`, belongs to; its end belongs to it."""
    ends = tokens[:-1] == (-1 if separator is None else separator)
    numbers = np.cumsum(ends)
    return np.asarray(numbers - numbers[0])


@torch.no_grad()
def nats_of(model: TransformerLM, tokens: NDArray[np.integer], runtime: Runtime) -> Floats:
    """Return the nats of all targets, `tokens[1:]`, in windows of the context's length, side by side."""
    context_length, found = model.config.context_length, list[Floats]()
    batch_size = max(1, TOKENS_AT_A_TIME // context_length)
    with evaluation_mode(model):
        for inputs, targets in validation_windows(tokens, context_length, batch_size, runtime.device):
            with runtime.autocast():
                nats = token_nats(model, model.hidden_states(inputs).flatten(0, 1), targets.flatten())
            found.append(nats.cpu().double().numpy())  # an Apple GPU has no float64
    return np.concatenate(found)
