"""Detection of steps that must not be taken: loss or gradient not finite, and spikes.

The guard checks the loss and the gradient norm of each step and keeps the recent ones. Learner and Trainer
act on its verdicts.
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
"""Number of steps with which a loss or a norm is compared."""
MIN_SAMPLES = 32
"""Number of earlier steps from which a value can count as a spike."""


class Verdict(Enum):
    """Decision about a step."""

    TAKE = "take"
    SKIP = "skip"
    """A spike, with [training].skip_spikes."""
    OVERFLOW = "overflow"
    """Gradient norm is not finite, perhaps because of a loss scale that can still be lowered."""
    NONFINITE = "nonfinite"
    """Loss or gradient norm is not finite, and no loss scale explains it."""


class Check(Protocol):
    """Function that is called between backward pass and optimizer step, and decides if that is taken."""

    def __call__(self, loss: float, grad_norm: float, *, can_rescale: bool) -> Verdict:
        """Return the verdict. `can_rescale`: the gradient is of a scaled loss, whose scale can be lowered."""


def take_every_step(loss: float, grad_norm: float, *, can_rescale: bool) -> Verdict:
    """Check that always returns TAKE."""
    return Verdict.TAKE


def is_spike(before: Sequence[float], value: float, deviations: float) -> bool:
    """Return value > mean + deviations * standard deviation of the values before; False if they are few.

    Source: OLMo-core's SkipStepOptimizer, 2024: six deviations, over the last 128 steps.
    """
    if len(before) < MIN_SAMPLES:
        return False
    mean = math.fsum(before) / len(before)
    variance = math.fsum((x - mean) ** 2 for x in before) / len(before)
    return value > mean + deviations * math.sqrt(variance)


def first_not_finite(model: nn.Module, whole: Callable[[Tensor], Tensor]) -> str:
    """Return the name of the first parameter that is not finite, or else of the first such gradient.

    `whole` gathers a tensor that is divided among ranks; all ranks call this together.
    """
    parameters = dict(model.named_parameters())
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    for what, tensors in (("", parameters), ("the gradient of ", gradients)):
        for name, tensor in tensors.items():
            if not whole(torch.linalg.vector_norm(tensor.detach().float())).isfinite():
                return what + name
    return "no parameter and no gradient"


class StepGuard:
    """Check of a run, with its counts. It gets every step's loss and gradient norm, in order."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.num_spikes = 0
        self.num_skipped = 0
        """Steps that were not taken, for any reason."""
        self.num_rollbacks = 0
        self.num_left_out = 0
        """Batches that rollbacks have skipped: step i uses batch i + num_left_out."""
        self.num_in_a_row = 0
        """Number of consecutive steps that were not finite, up to now."""
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._grad_norms: deque[float] = deque(maxlen=WINDOW)

    def check(self, loss: float, grad_norm: float, *, can_rescale: bool = False) -> Verdict:
        """Return the verdict on the next step, and count it."""
        if math.isfinite(loss) and not math.isfinite(grad_norm) and can_rescale:
            self.num_skipped += 1
            return Verdict.OVERFLOW
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self.num_in_a_row += 1
            return Verdict.NONFINITE
        self.num_in_a_row = 0
        found = False
        for window, value in ((self._losses, loss), (self._grad_norms, grad_norm)):
            found |= is_spike(window, value, self.config.spike_deviations)
            window.append(value)  # spikes too: the window must follow a lasting change of level
        self.num_spikes += found
        if not (found and self.config.skip_spikes):
            return Verdict.TAKE
        self.num_skipped += 1
        return Verdict.SKIP

    def decide(self, description: str) -> str:
        """Return "skip" or "rollback" for a step that is not finite, which `description` describes.

        Raises:
            NumericalError: [training].on_nonfinite is "stop", or there have been too many such steps.
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
        """Count a rollback that skips `num_batches` batches."""
        self.num_rollbacks += 1
        self.num_left_out += num_batches

    def state(self) -> dict[str, Any]:
        """Return counts and windows as plain numbers, for a resumed run."""
        counts = {name: value for name, value in vars(self).items() if name.startswith("num_")}
        return {**counts, "losses": list(self._losses), "grad_norms": list(self._grad_norms)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state`, which is empty in old checkpoints."""
        for name in vars(self):
            if name.startswith("num_"):
                setattr(self, name, int(state.get(name, 0)))
        self._losses = deque(map(float, state.get("losses", ())), maxlen=WINDOW)
        self._grad_norms = deque(map(float, state.get("grad_norms", ())), maxlen=WINDOW)
