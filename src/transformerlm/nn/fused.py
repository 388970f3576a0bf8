"""CPU kernels for a finished model: modules that replace the plain ones, applied from outside.

The core (transformer.py and the modules it uses) does not depend on kernels. Each class here computes the
same function as its base class, with the same parameters under the same names, in one pass over memory; for
tensors that `dispatch.can_serve` refuses it falls back to the base class.

The use of kernels is a property of one model (`use_kernels_`) or of a view of it (`with_kernels`), so that
models in different threads do not influence each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from transformerlm.kernels import dispatch
from transformerlm.nn import fused_functions, loss
from transformerlm.nn.attention import MultiHeadSelfAttention
from transformerlm.nn.feedforward import SwiGLU
from transformerlm.nn.functional import at_least_float32, product_dtype
from transformerlm.nn.linear import Linear
from transformerlm.nn.loss import NextTokenLoss
from transformerlm.nn.norm import RMSNorm
from transformerlm.nn.rope import RotaryPositionEmbedding

Module = TypeVar("Module", bound=nn.Module)

MAX_QUERIES = 1024
"""Longest text for attention by kernels. They hold all scores of a head at once; beyond this length PyTorch's
attention is faster."""
MANY_ROWS = 1024
"""Number of rows from which concatenating weights costs little compared with the product."""


def use_kernels_(module: nn.Module) -> None:
    """Make a model, or a model with its loss, compute with the CPU kernels, in place.

    Parameters, their names and the keys of the state dict do not change. Call it before the module is
    replicated, sharded or compiled. The kernels are compiled now if this machine has not done so before.
    """
    dispatch.LIBRARY.kernels()
    for part in module.modules():
        part.__class__ = _KERNEL_CLASSES.get(type(part), type(part))


def with_kernels(module: Module) -> Module:
    """Return a view of a model that computes with the CPU kernels: new modules with the model's parameters.

    The view is in evaluation mode. The model itself, which other threads may be using, does not change.
    """
    dispatch.LIBRARY.kernels()
    views: dict[nn.Module, nn.Module] = {}  # a shared module stays shared

    def view(part: nn.Module) -> nn.Module:
        if part not in views:
            kind = _KERNEL_CLASSES.get(type(part), type(part))
            views[part] = copied = kind.__new__(kind)
            children = {name: child and view(child) for name, child in part._modules.items()}
            copied.__dict__.update(part.__dict__, _modules=children, training=False)
        return views[part]

    return view(module)  # type: ignore[return-value]


def uses_kernels(module: nn.Module) -> bool:
    """Return True if `use_kernels_` was applied to the module, or `with_kernels` made it."""
    return any(isinstance(part, tuple(_KERNEL_CLASSES.values())) for part in module.modules())


def nats_and_gradient_(logits: Tensor, targets: Tensor, scale: float | Tensor) -> Tensor:
    """`loss.nats_and_gradient_` in one kernel."""
    if isinstance(scale, Tensor) or not dispatch.can_serve(logits):
        return loss.nats_and_gradient_(logits, targets, scale)
    return fused_functions.nats_and_gradient_(logits, targets, scale)


class KernelRMSNorm(RMSNorm):
    """RMSNorm in one kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_model] -> [..., d_model]; under autocast in the dtype of the next matrix product."""
        if not dispatch.can_serve(x, self.weight):
            return super().forward(x)
        return fused_functions.rms_norm(x, at_least_float32(self.weight), self.eps, product_dtype(x))


class KernelRotaryPositionEmbedding(RotaryPositionEmbedding):
    """RotaryPositionEmbedding in one kernel, where all rows are at the same positions."""

    def forward(self, x: Tensor, token_positions: Tensor) -> Tensor:
        """Rotate [..., T, d_k] by positions [..., T]."""
        if not dispatch.can_serve(x) or x.dim() != 4 or token_positions.dim() != 1:
            return super().forward(x, token_positions)
        return fused_functions.rotate(x, self.cos[token_positions], self.sin[token_positions])


class KernelSwiGLU(SwiGLU):
    """SwiGLU with one product for both projections and one kernel for the activation."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_model] -> [..., d_model]."""
        if not _should_join(x):
            return super().forward(x)
        output: Tensor = self.w2(fused_functions.swiglu(joint_linear(x, self.w1, self.w3)))
        return output


class KernelMultiHeadSelfAttention(MultiHeadSelfAttention):
    """Attention with one product for queries, keys and values; kernels for backends "auto" and "kernels"."""

    def _projections(self, x: Tensor) -> Sequence[Tensor]:
        if not _should_join(x):
            return super()._projections(x)
        layers = self.q_proj, self.k_proj, self.v_proj
        return torch.split(joint_linear(x, *layers), [layer.weight.shape[0] for layer in layers], -1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        is_whole_text = mask is None and q.dim() == 4 and 1 < q.shape[-2] == k.shape[-2] <= MAX_QUERIES
        if self.backend not in ("auto", "kernels") or not is_whole_text or not dispatch.can_serve(q, k, v):
            return super()._attend(q, k, v, mask)
        return fused_functions.attention(q, k, v)


class KernelNextTokenLoss(NextTokenLoss):
    """NextTokenLoss whose gradient of the logits is computed by a kernel."""

    gradient_function = staticmethod(nats_and_gradient_)


_KERNEL_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    RMSNorm: KernelRMSNorm,
    RotaryPositionEmbedding: KernelRotaryPositionEmbedding,
    SwiGLU: KernelSwiGLU,
    MultiHeadSelfAttention: KernelMultiHeadSelfAttention,
    NextTokenLoss: KernelNextTokenLoss,
}


def joint_linear(x: Tensor, *linears: Linear) -> Tensor:
    """Return the outputs of several layers for one input, concatenated on the last dimension.

    All of them have a bias, or none.

    One large product is faster than several small ones, and gives one gradient of `x` instead of several to
    add.
    """
    y = x @ torch.cat([linear.weight for linear in linears]).T
    biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    return y + torch.cat(biases).to(y.dtype) if biases else y


def _should_join(x: Tensor) -> bool:
    """Return True if layers with the input `x` should be one product: in training, and in large passes."""
    num_rows = x.shape[:-1].numel()
    return dispatch.can_serve(x) and x.shape[-2] > 1 and (torch.is_grad_enabled() or num_rows >= MANY_ROWS)
