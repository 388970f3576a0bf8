"""The model's probabilities with those of the memory: p = (p_model + weight) / total."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transformerlm.ngrams.memory import TextMemory


def mixed_logits(logits: Tensor, texts: Sequence[TextMemory]) -> Tensor:
    """Return logits whose softmax is the mixture: log(p + weight), where p is the softmax of `logits`.

    A row for which nothing is found stays as it is.

    Args:
        logits: [texts, vocabulary]; computed in float32 at least.
        texts: the text before each row.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    for row, text in zip(wide, texts, strict=True):
        found = text.find()
        if len(found.ids):
            ids = torch.from_numpy(found.ids.astype(np.int64)).to(wide.device)
            logs = torch.from_numpy(np.log(found.weights)).to(wide)  # of weights too large for float32
            row -= row.logsumexp(-1)
            row[ids] = torch.logaddexp(row[ids], logs)
    return wide


def mixed_nats(
    nats: NDArray[np.float64], weights: NDArray[np.floating], totals: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the nats of targets under the mixture, from those under the model: all [targets]."""
    with np.errstate(divide="ignore"):  # log 0: a token that the memory knows nothing of
        log_weights = np.log(weights.astype(np.float64))
    mixed: NDArray[np.float64] = np.log(totals.astype(np.float64)) - np.logaddexp(-nats, log_weights)
    return mixed
