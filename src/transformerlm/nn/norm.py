"""Root mean square normalisation, with a learned gain per component."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transformerlm.nn.functional import rms_norm


class RMSNorm(nn.Module):
    """y = gain * x / sqrt(mean(x^2) + eps) over the last dimension; no mean is subtracted, no bias added.

    Computed in float32 at least and returned in the input's dtype. `weight` is the gain [d_model], initially
    ones.

    Source: Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4.
    """

    def __init__(
        self,
        d_model: int,
        eps: float = 1e-5,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_model] -> [..., d_model]."""
        return rms_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Return the sizes that `print(model)` shows."""
        return f"d_model={self.weight.shape[0]}, eps={self.eps}"
