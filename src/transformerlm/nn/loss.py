"""The training loss: nats per next token, computed without holding all logits at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from transformerlm.nn.functional import at_least_float32, product_dtype
from transformerlm.nn.transformer import TransformerLM

GradientFunction = Callable[[Tensor, Tensor, float | Tensor], Tensor]
"""A function with the contract of `nats_and_gradient_`."""

CHUNK_BYTES = {"cpu": 32 * 2**20}
"""Size of the logits that exist at a time, by device: on a CPU they fit its last-level cache."""
DEFAULT_CHUNK_BYTES = 512 * 2**20
"""Size of the logits that exist at a time on other devices: enough to keep a GPU busy."""


class NextTokenLoss(nn.Module):
    """A model and its loss as one module: the unit that is compiled, replicated or sharded."""

    gradient_function: GradientFunction | None = None
    """Function that computes the loss and the gradient of the logits; None: `nats_and_gradient_`."""

    def __init__(self, model: TransformerLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: Tensor, targets: Tensor, num_targets: int | None = None) -> Tensor:
        """Ids and targets [batch, T] -> the sum of the targets' nats over `num_targets`, a float32 scalar.

        `num_targets` is by default the number of targets, which gives their mean. For a micro-batch pass that
        of the whole step: the losses of its micro-batches then add up to its mean.
        """
        hidden = self.model.hidden_states(token_ids)
        weight = self.model.head.weight
        return linear_cross_entropy(hidden, weight, targets, num_targets, self.gradient_function)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    num_targets: int | None = None,
    gradient_function: GradientFunction | None = None,
) -> Tensor:
    """`cross_entropy(hidden @ weight.T, targets, "sum") / num_targets`, some positions at a time.

    The logits of 8,192 positions and 10,000 tokens take 330 MB in float32, and their gradient as much. Here
    the gradient of a chunk is computed right after its logits, and both are freed before the next chunk. In
    float16 that is done in the backward pass: the loss scale has to be in the gradient before it is rounded.

    Args:
        hidden: [..., d_model]
        weight: [vocab_size, d_model]
        targets: [...], ids.
        num_targets: None: as many as there are targets.
        gradient_function: replaces `nats_and_gradient_`, for example by its version in kernels.

    Source: Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training", 2024, section 3.2.
    """
    if not torch.is_grad_enabled():
        hidden, weight = hidden.detach(), weight.detach()  # otherwise unused gradients would be computed
    rows, ids = hidden.flatten(0, -2), targets.flatten()
    nats: Tensor = _LinearCrossEntropy.apply(rows, weight, ids, num_targets or len(ids), gradient_function)
    return nats


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        num_targets: int,
        gradient_function: GradientFunction | None,
    ) -> Tensor:
        dtype = product_dtype(hidden)
        operands = hidden.to(dtype), weight.to(dtype), targets
        function = gradient_function or nats_and_gradient_
        with_gradients = any(ctx.needs_input_grad[:2])
        # probability / num_targets is too small for float16. The loss scale, which makes it large enough,
        # comes with the backward pass: the logits are computed again there.
        is_deferred = dtype == torch.float16
        now = with_gradients and not is_deferred
        nats, *gradients = _in_chunks(*operands, 1 / num_targets, function, with_gradients=now)
        if with_gradients:
            ctx.save_for_backward(*(operands if is_deferred else gradients))
            ctx.is_deferred, ctx.num_targets, ctx.function = is_deferred, num_targets, function
            ctx.dtypes = hidden.dtype, weight.dtype
        return nats

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.is_deferred:
            x, narrow, targets = ctx.saved_tensors
            _, *gradients = _in_chunks(x, narrow, targets, grad / ctx.num_targets, ctx.function)
        else:
            gradients = [gradient * grad for gradient in ctx.saved_tensors]
        hidden, weight = (gradient.to(dtype) for gradient, dtype in zip(gradients, ctx.dtypes, strict=True))
        return hidden, weight, None, None, None


def _in_chunks(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    scale: float | Tensor,
    function: GradientFunction,
    *,
    with_gradients: bool = True,
) -> list[Tensor]:
    """Return `scale` times the sum of the targets' nats, and the gradients of `x` and `weight` if wanted."""
    wide = torch.promote_types(x.dtype, torch.float32)
    nats = torch.zeros((), dtype=wide, device=x.device)
    gradients = [torch.empty_like(x), torch.zeros_like(weight, dtype=wide)] if with_gradients else []
    chunk_bytes = CHUNK_BYTES.get(x.device.type, DEFAULT_CHUNK_BYTES)
    chunk = max(1, chunk_bytes // (len(weight) * x.element_size()))
    for start in range(0, len(x), chunk):
        part = slice(start, start + chunk)
        logits = x[part] @ weight.T
        nats += function(logits, targets[part], scale)
        if gradients:
            torch.mm(logits, weight, out=gradients[0][part])
            gradients[1] += logits.T @ x[part]
    return [nats, *gradients]


def nats_and_gradient_(logits: Tensor, targets: Tensor, scale: float | Tensor) -> Tensor:
    """Return `scale` times the sum of the targets' nats; overwrites `logits` with its gradient.

    `logits` is [positions, vocab_size]; the gradient is scale * (softmax(logits) - one_hot(targets)), where
    `scale` is a number or a scalar tensor.
    """
    wide = at_least_float32(logits)
    shifted = wide - wide.amax(-1, keepdim=True)
    log_sum = shifted.logsumexp(-1, keepdim=True)
    at_targets = targets.unsqueeze(-1)
    nats = (log_sum - shifted.gather(-1, at_targets)).sum() * scale
    gradient = (shifted - log_sum).exp().mul_(scale)
    gradient.scatter_add_(-1, at_targets, gradient.new_ones(at_targets.shape).mul_(-scale))
    logits.copy_(gradient)
    return nats
