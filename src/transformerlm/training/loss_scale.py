"""Loss scaling: float16 has too few exponent bits for gradients, which are scaled up against underflow."""

from __future__ import annotations

from typing import Any

import torch

MIN_LOSS_SCALE = 1.0
"""The scale does not fall below this: a gradient that is still not finite then is no overflow by scaling."""


class LossScaler(torch.amp.GradScaler):
    """PyTorch's GradScaler with a lowest scale; without effect unless `enabled`.

    The scale is halved after each step whose gradient is not finite, and doubled after 2,000 others.

    Source: Micikevicius et al., "Mixed Precision Training", 2018, section 3.2.
    """

    def __init__(self, device: str, *, enabled: bool) -> None:
        super().__init__(device, enabled=enabled)
        self._initial_state = self.state_dict()

    def can_fall(self) -> bool:
        """Return True if the scale may be lowered further (host sync)."""
        return self.is_enabled() and self.get_scale() > MIN_LOSS_SCALE

    def update_after_overflow(self) -> None:
        """`update` after a gradient that is not finite: lower the scale, but not below the lowest (host
        sync)."""
        self.update()
        if self.get_scale() < MIN_LOSS_SCALE:
            self.update(MIN_LOSS_SCALE)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the result of `state_dict`; an empty one, of another precision, starts a new scale."""
        super().load_state_dict(state_dict or self._initial_state)
