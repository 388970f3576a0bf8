"""Initialisation of the model's matrices: a truncated normal distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


@torch.no_grad()
def truncated_normal_(weight: Tensor, std: float) -> None:
    """Fill `weight` from N(0, std^2) truncated at three standard deviations, by torch's global generator.

    Drawn in float32 at least, so that half-precision weights are the float32 ones, rounded.
    """
    if weight.device.type == "meta":
        return  # no memory to fill; drawing there would import torch's compiler, which takes seconds
    drawn = torch.empty_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
    nn.init.trunc_normal_(drawn, std=std, a=-3 * std, b=3 * std)
    weight.copy_(drawn)


def linear_std(in_features: int, out_features: int) -> float:
    """sqrt(2 / (in + out)): keeps the scale of activations forwards and of gradients backwards, on average.

    Source: Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", 2010, equation 12.
    """
    return math.sqrt(2 / (in_features + out_features))
