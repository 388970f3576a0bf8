"""The feed-forward network: the part of a block that works on each position by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transformerlm.nn.functional import silu
from transformerlm.nn.linear import Linear


class SwiGLU(nn.Module):
    """y = W2 (silu(W1 x) * W3 x): one projection gates the other, element by element.

    Source: Shazeer, "GLU Variants Improve Transformer", 2020, equation 6 (there W, V, W2).
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.w1 = Linear(d_model, d_ff, device=device, dtype=dtype)
        self.w2 = Linear(d_ff, d_model, device=device, dtype=dtype)
        self.w3 = Linear(d_model, d_ff, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_model] -> [..., d_model], through [..., d_ff]."""
        output: Tensor = self.w2(silu(self.w1(x)) * self.w3(x))
        return output
