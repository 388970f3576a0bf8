"""Scores of single tokens: the log-probability of each token of a text, and the likeliest ones beside it.

The windows are those of documents.py: the sum over a text's tokens is the loss that `transformerlm-eval`
gives, except for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from transformerlm.errors import NumericalError
from transformerlm.evaluation.windows import Window, windows
from transformerlm.infer.continuous import likeliest
from transformerlm.language_model import LanguageModel
from transformerlm.ngrams import TextMemory, Trust, mixed_along
from transformerlm.nn import TransformerLM, cross_entropy
from transformerlm.nn.fused import with_kernels

MAX_TARGETS = 256
"""Tokens whose logits are in memory at a time."""


class TokenScore(NamedTuple):
    """A token's log-probability, nats, and the likeliest ids at its place with theirs."""

    log_prob: float
    alternatives: tuple[tuple[int, float], ...]


@dataclass
class ScoredText:
    """A text that is being scored."""

    windows: list[Window]
    """What is still to come."""
    memory: TextMemory | None = None
    """The text before the next target; None before the first window, and without a memory of n-grams."""
    trust: Trust = field(default_factory=Trust)
    """How far the memory is trusted in the text so far."""


class TokenScorer:
    """Scores tokens of texts, window by window.

    Args:
        lm: from `load_for_scoring`.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self._runtime, self._vocab_size = lm.runtime, lm.tokenizer.vocab_size
        self._context_length = lm.model.config.context_length
        self._dtype, self._ngrams = lm.tokenizer.dtype, lm.ngrams
        self._model: TransformerLM = with_kernels(lm.model) if lm.runtime.kernels else lm.model

    def text(self, ids: Sequence[int]) -> ScoredText:
        """Cut a text into windows of the model's context, in which each token but the first is a target."""
        context_length = self._context_length
        stride = max(1, context_length // 2)
        cut = list(windows(0, [np.array(ids, self._dtype)], context_length, stride))
        return ScoredText(cut)

    @torch.no_grad()
    def score(self, text: ScoredText, num_alternatives: int = 0) -> list[TokenScore]:
        """Return the scores of the targets that count in the text's next window, in order.

        Raises:
            NumericalError: if the model's logits are NaN.
        """
        device, window = self._runtime.device, text.windows.pop(0)
        if self._ngrams and text.memory is None:
            text.memory = self._ngrams.text(window.ids[:1].tolist())
        ids = torch.from_numpy(window.ids.astype(np.int64)).to(device)
        targets = ids[-window.num_targets :]
        scores: list[TokenScore] = []
        with self._runtime.autocast():
            hidden = self._model.hidden_states(ids[None, :-1])[0, -window.num_targets :]
            for first in range(0, len(targets), MAX_TARGETS):
                some = targets[first : first + MAX_TARGETS]
                logits = self._model.logits(hidden[first : first + MAX_TARGETS])
                if text.memory:
                    logits = mixed_along(logits, text.memory, text.trust, some.tolist())
                log_probs = (-cross_entropy(logits, some, "none")).tolist()
                best = likeliest(logits, num_alternatives, self._vocab_size)
                scores += map(TokenScore, log_probs, best)
        if not np.isfinite([score.log_prob for score in scores]).all():
            raise NumericalError("the model's logits are not numbers (NaN): nothing can be scored with them")
        return scores
