"""Metrics of a step, as they are logged."""

from __future__ import annotations

import math
from typing import Protocol

from transformerlm.data import MixtureSampler, TokenData
from transformerlm.data.mixture_sampler import Sampler
from transformerlm.logging import names, to_floats
from transformerlm.training.budget import Budget
from transformerlm.training.learner import StepResult
from transformerlm.training.step_guard import StepGuard
from transformerlm.training.timers import Lap


class Measured(Protocol):
    """Part of a Trainer that is needed here."""

    budget: Budget
    data: TokenData
    sampler: Sampler
    step: int
    step_guard: StepGuard
    flops_ceiling: float

    @property
    def flops_per_token(self) -> float:
        """FLOPs of a training step for each of its tokens."""


def step_values(trainer: Measured, result: StepResult, lap: Lap) -> dict[str, float]:
    """Return the numbers of the step that a trainer has just taken (host sync).

    Args:
        lap: the steps since the last record.
    """
    tokens_per_step = trainer.budget.tokens_per_step
    num_tokens, num_bytes = trainer.data.size_of(trainer.data.train)
    loss, tokens_per_second = result.loss.item(), lap.steps * tokens_per_step / lap.seconds
    values = {
        names.LOSS: loss,
        names.BITS_PER_BYTE: loss / math.log(2) * num_tokens / num_bytes,
        names.LR: result.lr,
        names.GRAD_L2_NORM: result.grad_norm.item(),
        names.TOKENS: trainer.step * tokens_per_step,
        names.TOKENS_PER_SECOND: tokens_per_second,
        names.MFU: tokens_per_second * trainer.flops_per_token / trainer.flops_ceiling,
        names.DATA_WAIT_FRACTION: lap.data_seconds / lap.seconds,
        names.SPIKES: trainer.step_guard.num_spikes,
        names.SKIPPED_STEPS: trainer.step_guard.num_skipped,
        names.SECONDS_REMAINING: trainer.budget.seconds_left(trainer.step, lap.seconds / lap.steps),
    }
    return values | tokens_drawn(trainer) | to_floats(result.activation_norms)


def tokens_drawn(trainer: Measured) -> dict[str, float]:
    """Return the tokens that were drawn of each corpus of a mixture, those left out after faults too."""
    sampler = trainer.sampler
    if not isinstance(sampler, MixtureSampler):
        return {}
    drawn = sampler.drawn(trainer.step + trainer.step_guard.num_left_out) * sampler.context_length
    found = zip(trainer.data.shares, drawn.tolist(), strict=True)
    return {names.of_corpus(names.TOKENS, name): number for name, number in found}
