"""Loss scaling: float16 has too few exponent bits for gradients, which are scaled up against underflow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

INITIAL_LOSS_SCALE = 2.0**16
MIN_LOSS_SCALE = 1.0
"""The scale does not fall below this: a gradient that is still not finite then is no overflow by scaling."""
GROWTH_INTERVAL = 2000
"""Steps with finite gradients after which the scale is doubled."""


class LossScaler:
    """A loss scale: halved after each step whose gradient is not finite, doubled after 2,000 others.

    All of it is on the device, and the host waits only where a method says so. Without effect unless
    `enabled`.

    Source: Micikevicius et al., "Mixed Precision Training", 2018, section 3.2.
    """

    def __init__(self, device: torch.device | str, *, enabled: bool) -> None:
        self._enabled = enabled
        self._scale = torch.full((), INITIAL_LOSS_SCALE, dtype=torch.float32, device=device)
        self._good_steps = torch.zeros((), dtype=torch.int32, device=device)

    def is_enabled(self) -> bool:
        """Return True if losses are scaled."""
        return self._enabled

    def get_scale(self) -> float:
        """Return the scale (host sync)."""
        return self._scale.item() if self._enabled else 1.0

    def can_fall(self) -> Tensor | None:
        """Return BoolTensor []: the scale may be lowered further; None if losses are not scaled."""
        return self._scale > MIN_LOSS_SCALE if self._enabled else None

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss, scaled."""
        return loss * self._scale if self._enabled else loss

    def unscale_(self, grads: Sequence[Tensor]) -> None:
        """Divide gradients of a scaled loss by the scale, a power of two, in place."""
        if self._enabled and grads:
            torch._foreach_mul_(list(grads), self._scale.reciprocal())

    def update(self, is_finite: Tensor) -> None:
        """Adapt the scale after a step. `is_finite`: BoolTensor [], of its gradient."""
        if not self._enabled:
            return
        self._good_steps = torch.where(is_finite, self._good_steps + 1, 0).to(torch.int32)
        is_due = self._good_steps == GROWTH_INTERVAL
        factor = torch.where(is_finite, torch.where(is_due, 2.0, 1.0), 0.5)
        self._scale = (self._scale * factor).clamp(min=MIN_LOSS_SCALE)
        self._good_steps = torch.where(is_due, 0, self._good_steps).to(torch.int32)

    def state_dict(self) -> dict[str, Any]:
        """Return scale and count, with the names that PyTorch's GradScaler has; empty without scaling."""
        if not self._enabled:
            return {}
        return {"scale": self.get_scale(), "_growth_tracker": int(self._good_steps.item())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`; an empty one, of another precision, starts a new scale.

        Raises:
            ValueError: for a scale that is not a number of at least 1.
        """
        if not self._enabled:
            return
        device = self._scale.device
        scale, good_steps = float(state.get("scale", INITIAL_LOSS_SCALE)), state.get("_growth_tracker", 0)
        if not MIN_LOSS_SCALE <= scale < math.inf:
            raise ValueError(f"loss scale: expected a number of at least {MIN_LOSS_SCALE:g}, got {scale}")
        self._scale = torch.full((), scale, dtype=torch.float32, device=device)
        self._good_steps = torch.full((), int(good_steps), dtype=torch.int32, device=device)
