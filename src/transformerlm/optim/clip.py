"""Gradient clipping by the global norm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, eps: float = 1e-6) -> Tensor:
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
    alike = _by_device_and_dtype(grads)
    norms = [norm.to(grads[0].device) for some in alike for norm in _norms(some)]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    factor = (max_norm / (norm + eps)).clamp(max=1).where(norm.isfinite(), 1.0)
    if factor.device.type == "cpu" and factor.item() == 1:  # on a CPU, cheaper than a product
        return norm
    for some in alike:
        torch._foreach_mul_(some, factor.to(some[0].device))
    return norm


def _norms(grads: list[Tensor]) -> tuple[Tensor, ...]:
    # Without the wider dtype the squares of float16 would overflow from 256 on.
    dtype = torch.promote_types(grads[0].dtype, torch.float32)
    # Passed only if it differs: the operation on DTensors does not support the argument.
    return torch._foreach_norm(grads) if dtype == grads[0].dtype else torch._foreach_norm(grads, dtype=dtype)


def _by_device_and_dtype(tensors: list[Tensor]) -> list[list[Tensor]]:
    alike = defaultdict(list)
    for tensor in tensors:
        alike[tensor.device, tensor.dtype].append(tensor)
    return list(alike.values())
