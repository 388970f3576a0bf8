"""Gradient clipping by the global norm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

EPS = 1e-6
"""Added to the norm, which may be 0, before it divides."""


@torch.no_grad()
def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, eps: float = EPS) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + eps)), in place; return the norm before.

    norm is the L2 norm of all gradients as one vector, a scalar of float32 at least on their device; the host
    does not wait for it. Parameters without a gradient are skipped; with none at all the norm is 0.

    If the norm is not finite, the gradients are not scaled: the caller can then still find the ones that are
    not finite. (Scaling would spread one NaN over all.)

    Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", 2013,
    algorithm 1.
    """
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not grads:
        return torch.zeros((), dtype=torch.float32, device="cpu")
    norm: Tensor = torch.linalg.vector_norm(gradient_norms(grads))
    scale_gradients_(grads, norm, max_norm, eps)
    return norm


@torch.no_grad()
def gradient_norms(grads: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of each gradient, [gradients], in float32 at least, on the first one's device."""
    norms: list[Tensor] = [grads[0]] * len(grads)
    for places in _by_device_and_dtype(grads):
        for place, norm in zip(places, _norms([grads[place] for place in places]), strict=True):
            norms[place] = norm.to(grads[0].device)
    return torch.stack(norms)


@torch.no_grad()
def scale_gradients_(
    grads: Sequence[Tensor], norm: Tensor, max_norm: float, eps: float = EPS, *, may_wait: bool = True
) -> None:
    """Scale gradients whose global norm is `norm` as `clip_grad_norm_` does, in place.

    Args:
        may_wait: on a CPU, read the factor and leave out a product with 1.
    """
    factor = (max_norm / (norm + eps)).clamp(max=1).where(norm.isfinite(), 1.0)
    if may_wait and factor.device.type == "cpu" and factor.item() == 1:  # cheaper than a product
        return
    for places in _by_device_and_dtype(grads):
        some = [grads[place] for place in places]
        torch._foreach_mul_(some, factor.to(some[0].device))


def _norms(grads: list[Tensor]) -> tuple[Tensor, ...]:
    # Without the wider dtype the squares of float16 would overflow from 256 on.
    dtype = torch.promote_types(grads[0].dtype, torch.float32)
    # Passed only if it differs: the operation on DTensors does not support the argument.
    return torch._foreach_norm(grads) if dtype == grads[0].dtype else torch._foreach_norm(grads, dtype=dtype)


def _by_device_and_dtype(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Return the indices of tensors that are alike."""
    alike = defaultdict(list)
    for place, tensor in enumerate(tensors):
        alike[tensor.device, tensor.dtype].append(place)
    return list(alike.values())
