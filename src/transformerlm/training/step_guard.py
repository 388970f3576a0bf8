"""Detection of steps that must not be taken: loss or gradient not finite, and spikes.

The guard checks the loss and the gradient norm of each step where they are, on the device, so that the host
need not wait: `StepGuard.check`. The host learns of the verdict when it reads it, and counts it then:
`StepGuard.count`. Learner and Trainer act on the verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transformerlm.config import TrainingConfig
from transformerlm.errors import NumericalError

WINDOW = 128
"""Number of steps with which a loss or a norm is compared."""
MIN_SAMPLES = 32
"""Number of earlier steps from which a value can count as a spike."""


class Verdict(IntEnum):
    """Decision about a step."""

    TAKE = 0
    SKIP = 1
    """A spike, with [training].skip_spikes."""
    OVERFLOW = 2
    """Gradient norm is not finite, perhaps because of a loss scale that can still be lowered."""
    NONFINITE = 3
    """Loss or gradient norm is not finite, and no loss scale explains it."""


class Checked(NamedTuple):
    """Result of `StepGuard.check`, on the device."""

    verdict: Tensor
    """LongTensor []: a `Verdict`."""
    is_spike: Tensor
    """BoolTensor []."""
    window: Tensor
    """[2, WINDOW]: losses and gradient norms that the next step is compared with."""


def is_spike(before: Tensor, values: Tensor, deviations: float) -> Tensor:
    """Return value > mean + deviations * standard deviation of the values before; False if they are few.

    Args:
        before: [..., WINDOW]; NaN where there is none.
        values: [...]

    Returns:
        BoolTensor [...]

    Source: OLMo-core's SkipStepOptimizer, 2024: six deviations, over the last 128 steps.
    """
    is_there = before.isnan().logical_not_()
    number = is_there.sum(-1)
    mean = torch.nansum(before, -1) / number
    variance = torch.nansum((before - mean.unsqueeze(-1)).square_(), -1) / number
    return (number >= MIN_SAMPLES) & (values > mean + deviations * variance.sqrt())


def first_not_finite(
    model: nn.Module, grad_norms: Tensor | None, whole: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> str:
    """Return the name of the first parameter that is not finite, or else of the first such gradient.

    Host sync.

    Args:
        grad_norms: [parameters], in the order of the model's; None: not known.
        whole: gathers a tensor that is divided among ranks; all ranks call this together.
    """
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if not whole(torch.linalg.vector_norm(parameter.detach().float())).isfinite():
            return name
    norms: Sequence[float] = [] if grad_norms is None else grad_norms.tolist()
    for name, norm in zip(parameters, norms, strict=False):
        if not math.isfinite(norm):
            return f"the gradient of {name}"
    return "no parameter and no gradient"


class StepGuard:
    """Check of a run, with its counts. It gets every step's loss and gradient norm, in order.

    Args:
        device: of the losses and norms.
    """

    def __init__(self, config: TrainingConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.num_spikes = 0
        self.num_skipped = 0
        """Steps that were not taken, for any reason."""
        self.num_rollbacks = 0
        self.num_left_out = 0
        """Batches that rollbacks have skipped: step i uses batch i + num_left_out."""
        self.num_in_a_row = 0
        """Number of consecutive steps that were not finite, up to now."""
        # Apple's GPUs have no float64, and float32 is enough for a comparison with six deviations.
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self.window = torch.full((2, WINDOW), math.nan, dtype=dtype, device=device)
        """Losses and gradient norms of the last steps, the newest last; NaN where there were none."""

    def check(self, loss: Tensor, grad_norm: Tensor, can_rescale: Tensor | None = None) -> Checked:
        """Return the verdict on the next step, for which the host does not wait.

        Args:
            loss, grad_norm: scalars on the device.
            can_rescale: BoolTensor []: True if the gradient is of a scaled loss, whose scale can be lowered.
                None: it is not.
        """
        values = torch.stack([loss, grad_norm]).to(self.window.dtype)
        finite = values.isfinite()
        is_sound = finite.all()
        spike = is_spike(self.window, values, self.config.spike_deviations).any() & is_sound
        # Spikes too: the window must follow a lasting change of level.
        appended = torch.cat([self.window[:, 1:], values.unsqueeze(-1)], -1)
        self.window = torch.where(is_sound, appended, self.window)
        fault = torch.full_like(is_sound, int(Verdict.NONFINITE), dtype=torch.long)
        if can_rescale is not None:
            fault = torch.where(finite[0] & can_rescale, int(Verdict.OVERFLOW), fault)
        sound = spike.long() * int(Verdict.SKIP) if self.config.skip_spikes else int(Verdict.TAKE)
        return Checked(torch.where(is_sound, sound, fault), spike, self.window)

    def count(self, verdict: Verdict, is_spike: bool) -> None:
        """Count a step, once the host knows its verdict."""
        self.num_spikes += is_spike
        if verdict is not Verdict.OVERFLOW:
            self.num_in_a_row = self.num_in_a_row + 1 if verdict is Verdict.NONFINITE else 0
        self.num_skipped += verdict in (Verdict.SKIP, Verdict.OVERFLOW)

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
        losses, grad_norms = (row[~row.isnan()].tolist() for row in self.window)  # host sync
        return {**counts, "losses": losses, "grad_norms": grad_norms}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state`, which is empty in old checkpoints."""
        for name in vars(self):
            if name.startswith("num_"):
                setattr(self, name, int(state.get(name, 0)))
        rows = (list(map(float, state.get(name, ())))[-WINDOW:] for name in ("losses", "grad_norms"))
        filled = [[math.nan] * (WINDOW - len(row)) + row for row in rows]
        self.window = torch.tensor(filled, dtype=self.window.dtype, device=self.window.device)
