"""Functions without weights: softmax, RMSNorm, SiLU, cross-entropy. Pure functions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32; unchanged if it is float32 or float64 already.

    For sums, exponentials and roots: a bfloat16 has 8 significant bits, and a float16 ends at 65,504.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of a matrix product with `x`: autocast's while that is on, else its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def softmax(x: Tensor, dim: int) -> Tensor:
    """Softmax along `dim`: exp(x_i - max x) / sum_j exp(x_j - max x).

    Subtracting the maximum does not change the quotient and keeps every exponential at most 1.
    Computed in float32 at least, returned in the dtype of `x`.
    """
    wide = at_least_float32(x)
    # The result does not depend on the shift, so no gradient has to flow through it.
    exponentials = (wide - wide.detach().amax(dim, keepdim=True)).exp()
    return (exponentials / exponentials.sum(dim, keepdim=True)).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight * x / sqrt(mean(x^2) + eps) over the last dimension.

    Computed in float32 at least, returned in the dtype of `x`.
    """
    wide = at_least_float32(x)
    inverse_rms = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return (wide * inverse_rms * weight).to(x.dtype)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x), element by element.

    Source: Elfwing, Uchibe, Doya, "Sigmoid-Weighted Linear Units for Neural Network Function
    Approximation in Reinforcement Learning", 2018.
    """
    return x * torch.sigmoid(x)


def cross_entropy(
    logits: Tensor, targets: Tensor, reduction: Literal["mean", "sum", "none"] = "mean"
) -> Tensor:
    """Cross-entropy in nats: log(sum_j exp(logits_j)) - logits_target.

    Args:
        logits: [..., vocabulary], of any magnitude: the maximum is subtracted, in float32 at least.
        targets: [...], ids.
        reduction: mean over all positions, their sum, or one value per position ("none").

    Returns:
        A scalar, or [...] with "none"; in float32, or float64 where the logits are.
    """
    wide = at_least_float32(logits)
    shifted = wide - wide.detach().amax(-1, keepdim=True)
    nats = shifted.exp().sum(-1).log() - shifted.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    match reduction:
        case "mean":
            return nats.mean()
        case "sum":
            return nats.sum()
        case "none":
            return nats
    raise ValueError(f'reduction: expected "mean", "sum" or "none", got {reduction!r}')
