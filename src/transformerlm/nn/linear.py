"""A matrix applied to the last dimension. There is no bias anywhere in this model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transformerlm.kernels import dispatch
from transformerlm.nn.init import linear_std, truncated_normal_


class Linear(nn.Module):
    """y = x W^T, from [..., in_features] to [..., out_features].

    `weight` is [out_features, in_features], drawn with variance 2 / (in_features + out_features).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
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


MANY_ROWS = 1024
"""From so many on laying weights side by side costs little beside the product."""


def are_joined(x: Tensor) -> bool:
    """Whether layers with the same input are computed by one `joint_linear`: in training on CPU kernels."""
    num_rows = x.shape[:-1].numel()
    return dispatch.can_serve(x) and x.shape[-2] > 1 and (torch.is_grad_enabled() or num_rows >= MANY_ROWS)


def joint_linear(x: Tensor, *linears: Linear) -> Tensor:
    """All their outputs, one beside the other on the last dimension, from one matrix product.

    One large product is quicker than several small ones, and gives one gradient of `x` to pass on instead
    of several to add up.
    """
    return x @ torch.cat([linear.weight for linear in linears]).T
