"""The model's probabilities with those of the memory, as logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from transformerlm.ngrams.memory import Found, TextMemory
from transformerlm.ngrams.trust import Trust


def mixed_logits(logits: Tensor, texts: Sequence[TextMemory | None]) -> Tensor:
    """Return logits whose softmax is the mixture: those of the tokens that the memory knows are raised.

    logits'(x) = log(p(x) + weight(x)) + log sum exp(logits), where p is the softmax of the logits: the memory
    at strength 1.

    Args:
        logits: [texts, vocabulary]; computed in float32 at least.
        texts: the text before each row; None: the row is left as it is.
    """
    if not any(texts):
        return logits
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    for row, text in zip(wide, texts, strict=True):
        if text:
            _mix(row, text.find(), 1.0)
    return wide


def mixed_along(logits: Tensor, text: TextMemory, trust: Trust, following: Sequence[int]) -> Tensor:
    """Return mixed logits of places in a row of one text that is scored, [places, vocabulary].

    Args:
        text: before the first place; afterwards it has the tokens at all of them.
        trust: how far the memory is trusted in it; it learns from the tokens.
        following: the token at each place.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    for row, token in zip(wide, following, strict=True):
        found, nats = text.find(), float(row.logsumexp(-1) - row[token])
        _mix(row, found, trust.strength(found.total))
        weight = found.weights[found.ids == token].sum()
        trust.mixed_nats(np.array([nats]), np.array([weight]), np.array([found.total]))
        text.extend([token])
    return wide


def _mix(row: Tensor, found: Found, strength: float) -> None:
    """Raise the logits [vocabulary] of the tokens that were found, at a strength of the memory."""
    if len(found.ids):
        log_sum = row.logsumexp(-1)  # of one row: a sum over several may add up in another order
        ids = torch.from_numpy(found.ids.astype(np.int64)).to(row.device)
        logs = torch.from_numpy(np.log(strength * found.weights)).to(row)
        row[ids] = torch.logaddexp(row[ids] - log_sum, logs) + log_sum
