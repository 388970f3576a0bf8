"""The model's functions computed by the CPU kernels, each in one pass over memory, with their gradients.

The formulas are documented at the plain versions (functional.py, norm.py, rope.py, sdpa.py, loss.py), with
which the tests compare these. This module has the forward and backward passes, and the choice of tensors to
keep between them. The modules that call these functions are in fused.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from transformerlm.kernels import dispatch

SCORES_BYTES = 2**20
"""Attention scores that are computed at a time: they stay in the second-level caches."""


def _float32(*shape: int) -> Tensor:
    """Return uninitialised float32 memory for a kernel."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """`functional.rms_norm`, with the result in `dtype`."""
    return _RMSNorm.apply(x, weight, eps, dtype)  # type: ignore[no-any-return]


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x = x.contiguous()
        width = x.shape[-1]
        rows = x.numel() // width
        out, inverse_rms = torch.empty_like(x, dtype=dtype), _float32(rows)
        dispatch.run("rms_norm", (x.dtype, dtype), x, weight, out, inverse_rms, rows, width, eps)
        ctx.save_for_backward(x, weight, inverse_rms)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse_rms = ctx.saved_tensors
        grad, grad_x = grad.contiguous(), torch.empty_like(x)
        rows, width = len(inverse_rms), x.shape[-1]
        # Zeros: if fewer threads run than were asked for, some rows are not written.
        parts = _float32(dispatch.num_threads(), width).zero_()
        tensors = (grad, x, weight, inverse_rms, grad_x, parts)
        dispatch.run("rms_norm_back", (x.dtype, grad.dtype), *tensors, rows, width)
        return grad_x, parts.sum(0), None, None


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, of [..., 2 * d_ff] with the gate in the first half: [..., d_ff]."""
    return _SwiGLU.apply(gate_up)  # type: ignore[no-any-return]


class _SwiGLU(Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        width = gate_up.shape[-1] // 2
        out = gate_up.new_empty(*gate_up.shape[:-1], width)
        dispatch.run("swiglu", (out.dtype,), gate_up, out, out.numel() // width, width)
        ctx.save_for_backward(gate_up)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        grad, grad_gate_up, width = grad.contiguous(), torch.empty_like(gate_up), grad.shape[-1]
        dispatch.run("swiglu_back", (grad.dtype,), grad, gate_up, grad_gate_up, grad.numel() // width, width)
        return grad_gate_up


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [batch, heads, T, d_head] by angles [T, d_head / 2]; the result is contiguous."""
    return _Rotate.apply(x, cos, sin)  # type: ignore[no-any-return]


class _Rotate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        out = x.new_empty(x.shape)
        _run_rotate(x, cos, sin, out, 1)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        batch, heads, times, width = grad.shape
        # The layout of the projection that the gradient goes to: heads beside each other.
        out = grad.new_empty(batch, times, heads, width).transpose(1, 2)
        cos, sin = ctx.saved_tensors
        _run_rotate(grad, cos, sin, out, -1)
        return out, None, None


def _run_rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, sign: int) -> None:
    x = x if x.stride(-1) == 1 else x.contiguous()
    batch, heads, times, width = x.shape
    source: list[Tensor | float] = [x, *x.stride()[:3]]
    target: list[Tensor | float] = [out, *out.stride()[:3]]
    dispatch.run("rotate", (x.dtype,), *source, cos, sin, *target, batch, heads, times, width // 2, sign)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of T queries to T keys: q [batch, heads, T, d_k], k and v with as many or fewer heads.

    Works on some rows of the batch at a time, so that their scores stay in the caches; the backward pass
    recomputes them from q, k and one number per query.

    Source: Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
    2022, for the recomputation.
    """
    return _Attention.apply(q, k, v)  # type: ignore[no-any-return]


class _Attention(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, heads, times, width = q.shape
        # Query heads that share a key head are treated as additional queries of it.
        grouped = q.reshape(batch * k.shape[1], -1, width)
        keys, values = k.reshape(-1, times, width), v.reshape(-1, times, v.shape[-1])
        out = grouped.new_empty(*grouped.shape[:2], v.shape[-1])
        log_sums = _float32(*grouped.shape[:2])
        work = _Workspace(grouped, times)
        for part in work.parts:
            scores = torch.bmm(grouped[part], keys[part].transpose(1, 2), out=work.scores(part))
            work.attend(scores, log_sums[part])
            torch.bmm(scores, values[part], out=out[part])
        ctx.save_for_backward(grouped, keys, values, log_sums)
        ctx.shapes = q.shape, k.shape, v.shape
        return out.view(batch, heads, times, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v, log_sums = ctx.saved_tensors
        work = _Workspace(q, k.shape[1])
        grad = grad.reshape(*q.shape[:2], -1)
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for part in work.parts:
            scores = torch.bmm(q[part], k[part].transpose(1, 2), out=work.scores(part))
            grad_scores = torch.bmm(grad[part], v[part].transpose(1, 2), out=work.grad_scores(part))
            work.attend_back(scores, grad_scores, log_sums[part])
            torch.bmm(grad_scores, k[part], out=grads[0][part])
            torch.bmm(grad_scores.transpose(1, 2), q[part], out=grads[1][part])
            torch.bmm(scores.transpose(1, 2), grad[part], out=grads[2][part])
        return tuple(each.view(shape) for each, shape in zip(grads, ctx.shapes, strict=True))


class _Workspace:
    """Workspace for the attention scores of some rows at a time, and the kernels that use it."""

    def __init__(self, q: Tensor, times: int) -> None:
        rows, queries, width = q.shape
        self.times, self.scale = times, 1 / math.sqrt(width)
        size = max(1, min(rows, SCORES_BYTES // (queries * times * q.element_size())))
        self.parts = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
        self._scores, self._grad_scores = (q.new_empty(size, queries, times) for _ in range(2))
        self._scratch = _float32(dispatch.num_threads(), times)

    def scores(self, part: slice) -> Tensor:
        return self._scores[: part.stop - part.start]

    def grad_scores(self, part: slice) -> Tensor:
        return self._grad_scores[: part.stop - part.start]

    def attend(self, scores: Tensor, log_sums: Tensor) -> None:
        numbers = log_sums.numel(), self.times, 0, self.times, self.scale
        dispatch.run("attend", (scores.dtype,), scores, log_sums, self._scratch, *numbers)

    def attend_back(self, scores: Tensor, grad: Tensor, log_sums: Tensor) -> None:
        numbers = log_sums.numel(), self.times, 0, self.times, self.scale
        dispatch.run("attend_back", (scores.dtype,), scores, grad, log_sums, self._scratch, *numbers)


def nats_and_gradient_(logits: Tensor, targets: Tensor, scale: float) -> Tensor:
    """See `loss.nats_and_gradient_`."""
    rows, width = logits.shape
    nats = _float32(rows)
    dispatch.run("cross_entropy", (logits.dtype,), logits, targets.contiguous(), nats, rows, width, scale)
    return nats.sum() * scale
