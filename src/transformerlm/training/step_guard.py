"""Finds the steps that must not be taken: those whose loss or gradient is not finite, and spikes.

It looks at two numbers of each step and remembers some. Learner and Trainer act on what it says.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from transformerlm.config import TrainingConfig
from transformerlm.errors import NumericalError

WINDOW = 128
"""Steps that a loss or a norm is compared with."""
MIN_SAMPLES = 32
"""With fewer no value counts as a spike."""


class Verdict(Enum):
    """Fate of a step."""

    TAKE = "take"
    SKIP = "skip"
    """A spike, and those are to be skipped."""
    NONFINITE = "nonfinite"
    """Loss or gradient norm are not finite."""


class Check(Protocol):
    """Decides between a backward pass and the optimizer's step."""

    def __call__(self, loss: float, grad_norm: float, *, is_scaled: bool) -> Verdict:
        """`is_scaled`: gradients were scaled up, and the scaler itself skips a step where they overflow."""


def take_every_step(loss: float, grad_norm: float, *, is_scaled: bool) -> Verdict:
    """The Check that has every step taken."""
    return Verdict.TAKE


def is_spike(before: Sequence[float], value: float, deviations: float) -> bool:
    """value > mean + deviations * standard deviation of the values before; with few of them never.

    Source: OLMo-core's SkipStepOptimizer, 2024: six deviations, over the last 128 steps.
    """
    if len(before) < MIN_SAMPLES:
        return False
    mean = math.fsum(before) / len(before)
    variance = math.fsum((x - mean) ** 2 for x in before) / len(before)
    return value > mean + deviations * math.sqrt(variance)


def first_not_finite(model: nn.Module, whole: Callable[[Tensor], Tensor]) -> str:
    """The first parameter that is not finite, or else the first whose gradient is not, by name.

    `whole` puts together what is divided among ranks; all of them call this together.
    """
    parameters = dict(model.named_parameters())
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    for what, tensors in (("", parameters), ("the gradient of ", gradients)):
        for name, tensor in tensors.items():
            if not whole(torch.linalg.vector_norm(tensor.detach().float())).isfinite():
                return what + name
    return "no parameter and no gradient"


class StepGuard:
    """A run's Check, and its counts. Sees every step's loss and gradient norm, in order."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.num_spikes = 0
        self.num_skipped = 0
        """Steps that were not taken, for either reason."""
        self.num_rollbacks = 0
        self.num_left_out = 0
        """Batches that rollbacks have left out: step i learns from batch i + num_left_out."""
        self.num_in_a_row = 0
        """Steps that were not finite since the last one that was."""
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._grad_norms: deque[float] = deque(maxlen=WINDOW)

    def check(self, loss: float, grad_norm: float, *, is_scaled: bool) -> Verdict:
        """Judge the next step, and count it."""
        if not (math.isfinite(loss) and (math.isfinite(grad_norm) or is_scaled)):
            self.num_in_a_row += 1
            return Verdict.NONFINITE
        self.num_in_a_row = 0
        found = False
        for window, value in ((self._losses, loss), (self._grad_norms, grad_norm)):
            if math.isfinite(value):
                found |= is_spike(window, value, self.config.spike_deviations)
                window.append(value)  # spikes too: a run that has come to another level goes on
        self.num_spikes += found
        if not (found and self.config.skip_spikes):
            return Verdict.TAKE
        self.num_skipped += 1
        return Verdict.SKIP

    def decide(self, description: str) -> str:
        """Return "skip" or "rollback" for a step that is not finite, which `description` describes.

        Raises:
            NumericalError: the run is to stop, or there have been too many such steps.
        """
        config = self.config
        if config.on_nonfinite == "stop":
            others = '[training].on_nonfinite = "skip" or "rollback"'
            raise NumericalError(
                f"{description}; no checkpoint has it; try a lower [optimizer].lr, or {others}"
            )
        if config.max_faults in (self.num_in_a_row, self.num_rollbacks):
            many = f"[training].max_faults = {config.max_faults} is reached"
            raise NumericalError(f"{description}; no checkpoint has it; {many}; try a lower [optimizer].lr")
        self.num_skipped += config.on_nonfinite == "skip"
        return config.on_nonfinite

    def leave_out(self, num_batches: int) -> None:
        """Count a rollback, after which the run does not see so many batches again."""
        self.num_rollbacks += 1
        self.num_left_out += num_batches

    def state(self) -> dict[str, Any]:
        """Counts and windows as plain numbers, for a resumed run."""
        counts = {name: value for name, value in vars(self).items() if name.startswith("num_")}
        return {**counts, "losses": list(self._losses), "grad_norms": list(self._grad_norms)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; old checkpoints have nothing of it."""
        for name in vars(self):
            if name.startswith("num_"):
                setattr(self, name, int(state.get(name, 0)))
        self._losses = deque(map(float, state.get("losses", ())), maxlen=WINDOW)
        self._grad_norms = deque(map(float, state.get("grad_norms", ())), maxlen=WINDOW)
