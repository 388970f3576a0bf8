"""The model's probabilities with those of the memory: p = (p_model + weight) / total."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transformerlm.ngrams.memory import TextMemory


def mixed_logits(logits: Tensor, texts: Sequence[TextMemory | None]) -> Tensor:
    """Return logits whose softmax is the mixture: those of the tokens that the memory knows are raised.

    logits'(x) = log(p(x) + weight(x)) + log sum exp(logits), where p is the softmax of the logits.

    Args:
        logits: [texts, vocabulary]; computed in float32 at least.
        texts: the text before each row; None: the row is left as it is.
    """
    if not any(texts):
        return logits
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    for row, text in zip(wide, texts, strict=True):
        if text and len((found := text.find()).ids):
            log_sum = row.logsumexp(-1)  # of one row: a sum over several may add up in another order
            ids = torch.from_numpy(found.ids.astype(np.int64)).to(wide.device)
            logs = torch.from_numpy(np.log(found.weights)).to(wide)
            row[ids] = torch.logaddexp(row[ids] - log_sum, logs) + log_sum
    return wide


def mixed_along(logits: Tensor, text: TextMemory, following: Sequence[int]) -> Tensor:
    """Return mixed logits of places in a row of one text, [places, vocabulary]; see `mixed_logits`.

    Args:
        text: before the first place; afterwards it has the tokens at all of them.
        following: the token at each place.
    """
    rows = []
    for row, token in zip(logits, following, strict=True):
        rows.append(mixed_logits(row[None], [text]))
        text.extend([token])
    return torch.cat(rows)


def mixed_nats(
    nats: NDArray[np.float64], weights: NDArray[np.floating], totals: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the nats of targets under the mixture, from those under the model: all [targets]."""
    with np.errstate(divide="ignore"):  # log 0: a token that the memory knows nothing of
        log_weights = np.log(weights.astype(np.float64))
    mixed: NDArray[np.float64] = np.log(totals.astype(np.float64)) - np.logaddexp(-nats, log_weights)
    return mixed
