"""A matrix applied to the last dimension. There is no bias anywhere in this model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transformerlm.nn.init import linear_std, truncated_normal_


class Linear(nn.Module):
    """y = x W^T, from [..., in_features] to [..., out_features].

    `weight` is [out_features, in_features], drawn with variance 2 / (in_features + out_features).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        truncated_normal_(self.weight, linear_std(in_features, out_features))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return x @ self.weight.T

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        out_features, in_features = self.weight.shape
        return f"in_features={in_features}, out_features={out_features}"
