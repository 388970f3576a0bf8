"""CPU kernels for a finished model: modules that take the plain ones' places, applied from outside.

The core (transformer.py and what it names) knows nothing of kernels. Each class here computes what its base
class computes, in one pass over memory, for the tensors that `dispatch.can_serve` takes, and falls back to
its base class for all others. It has the same parameters under the same names.

Which model uses kernels is a property of that model (`use_kernels_`) or of a view of it (`with_kernels`):
two models in two threads do not know of each other.
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
"""Up to here the kernels, which hold all scores of a head at once, are quicker than PyTorch's attention."""
MANY_ROWS = 1024
"""From so many rows on, concatenating weights costs little beside the product."""


def use_kernels_(module: nn.Module) -> None:
    """Have a model, or a model with its loss, compute in the CPU kernels from now on, in place.

    Parameters, their names and the keys of the state dict stay. Call it before the module is replicated,
    sharded or compiled. The kernels are compiled now where this machine has never done so.
    """
    dispatch.LIBRARY.kernels()
    for part in module.modules():
        part.__class__ = _KERNEL_CLASSES.get(type(part), type(part))


def with_kernels(module: Module) -> Module:
    """A view of a model that computes in the CPU kernels: own modules, the model's parameters and buffers.

    The model itself, which other threads may be using, does not change.
    """
    dispatch.LIBRARY.kernels()
    views: dict[nn.Module, nn.Module] = {}  # a module that several share stays one

    def view(part: nn.Module) -> nn.Module:
        if part not in views:
            kind = _KERNEL_CLASSES.get(type(part), type(part))
            views[part] = copied = kind.__new__(kind)
            children = {name: child and view(child) for name, child in part._modules.items()}
            copied.__dict__.update(part.__dict__, _modules=children)
        return views[part]

    return view(module)  # type: ignore[return-value]


def uses_kernels(module: nn.Module) -> bool:
    """Return True if `use_kernels_` was applied to the module, or `with_kernels` made it."""
    return any(isinstance(part, tuple(_KERNEL_CLASSES.values())) for part in module.modules())


def nats_and_gradient_(logits: Tensor, targets: Tensor, scale: float) -> Tensor:
    """`loss.nats_and_gradient_` in one kernel."""
    if not dispatch.can_serve(logits):
        return loss.nats_and_gradient_(logits, targets, scale)
    return fused_functions.nats_and_gradient_(logits, targets, scale)


class KernelRMSNorm(RMSNorm):
    """RMSNorm in one kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_model] -> [..., d_model]; under autocast in the dtype that the next product takes."""
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
        if not _joins(x):
            return super().forward(x)
        output: Tensor = self.w2(fused_functions.swiglu(joint_linear(x, self.w1, self.w3)))
        return output


class KernelMultiHeadSelfAttention(MultiHeadSelfAttention):
    """Attention with one product for queries, keys and values; backend "auto" is a kernel too."""

    def _projections(self, x: Tensor) -> Sequence[Tensor]:
        if not _joins(x):
            return super()._projections(x)
        layers = self.q_proj, self.k_proj, self.v_proj
        return torch.split(joint_linear(x, *layers), [layer.weight.shape[0] for layer in layers], -1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        is_whole_text = mask is None and q.dim() == 4 and 1 < q.shape[-2] == k.shape[-2] <= MAX_QUERIES
        if self.backend != "auto" or not is_whole_text or not dispatch.can_serve(q, k, v):
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
    """The outputs of several layers for the same input, concatenated on the last dimension, by one product.

    One large product is quicker than several small ones, and gives one gradient of `x` to pass on instead
    of several to add up.
    """
    return x @ torch.cat([linear.weight for linear in linears]).T


def _joins(x: Tensor) -> bool:
    """Return True if layers with the input `x` are to be one product: in training, and in large passes."""
    num_rows = x.shape[:-1].numel()
    return dispatch.can_serve(x) and x.shape[-2] > 1 and (torch.is_grad_enabled() or num_rows >= MANY_ROWS)
