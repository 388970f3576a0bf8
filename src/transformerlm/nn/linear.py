"""A matrix applied to the last dimension, with or without a bias."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transformerlm.nn.init import linear_std, truncated_normal_


class Linear(nn.Module):
    """y = x W^T + b, from [..., in_features] to [..., out_features].

    `weight` is [out_features, in_features], drawn with variance 2 / (in_features + out_features). `bias` is
    [out_features], initially zeros, or None.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        truncated_normal_(self.weight, linear_std(in_features, out_features))
        zeros = torch.zeros(out_features, device=device, dtype=dtype) if bias else None
        self.bias = None if zeros is None else nn.Parameter(zeros)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias.to(y.dtype)  # autocast leaves it in float32

    def extra_repr(self) -> str:
        """Return the sizes that `print(model)` shows."""
        out_features, in_features = self.weight.shape
        bias = "" if self.bias is None else ", bias=True"
        return f"in_features={in_features}, out_features={out_features}{bias}"
