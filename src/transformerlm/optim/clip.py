"""Gradient clipping by the norm of all gradients together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, eps: float = 1e-6) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + eps)), in place; returns the norm before.

    norm is the L2 norm of all gradients as one vector, a scalar of float32 at least on their device; nothing
    here waits for it. Parameters without a gradient are skipped; with none at all the norm is 0.

    A norm that is not finite leaves the gradients as they are, so that the caller, who sees it in the
    result, can still find out which of them is to blame. (Scaling would spread one NaN over all.)

    Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", 2013,
    algorithm 1.
    """
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not grads:
        return torch.zeros(())
    norms = [_norm(grad).to(grads[0].device) for grad in grads]
    norm = _norm(torch.stack(norms))
    factor = (max_norm / (norm + eps)).clamp(max=1).where(norm.isfinite(), 1.0)
    for grad in grads:
        grad.mul_(factor.to(grad.device))
    return norm


def _norm(x: Tensor) -> Tensor:
    # Without the wider dtype the squares of float16 would end in infinity from 256 on.
    norm: Tensor = torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32))
    return norm
