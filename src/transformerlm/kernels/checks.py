"""Debug mode: the memory behind every address is checked before a kernel runs.

Kernels read and write raw memory. With `TRANSFORMERLM_DEBUG_KERNELS=1`, `dispatch` compares each tensor with
the kernel's requirements: dtype, device, contiguity, and size, which follows from the call's numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from transformerlm.errors import TransformerLMError
from transformerlm.kernels.generation_layout import (
    ALIGNED,
    BARRIER_SIZE,
    NUM_BINS,
    NUM_MATRICES,
    TILE_ROWS,
)

DEBUG_VARIABLE = "TRANSFORMERLM_DEBUG_KERNELS"
"""Set to 1 to check all memory before each kernel runs."""
IS_ON = os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")

DTYPES = {
    "f32*": torch.float32,
    "u16*": torch.bfloat16,
    "i8*": torch.int8,
    "u8*": torch.uint8,
    "f64*": torch.float64,
    "i64*": torch.int64,
}

Sizes = Mapping[str, Callable[[Any], int]]
"""Parameter -> function of the call's numbers that returns the size that the kernel needs, in elements."""


def _rows_by_width(n: Any) -> int:
    return int(n.rows * n.width)


def _rows_by_keys(n: Any) -> int:
    return int(n.rows * n.keys)


def _widest(n: Any) -> int:
    return int(max(n.d_model, n.d_ff, n.heads * n.d_head))


def _strided(prefix: str) -> Callable[[Any], int]:
    """Return a size function for memory that is accessed through strides: the end of the last vector."""

    def size(n: Any) -> int:
        batch, head, time = (getattr(n, f"{prefix}_{name}") for name in ("batch", "head", "time"))
        return int((n.batch - 1) * batch + (n.heads - 1) * head + (n.times - 1) * time + 2 * n.pairs)

    return size


_ATTENTION: Sizes = {
    "scores": _rows_by_keys,
    "grad": _rows_by_keys,
    "log_sums": lambda n: n.rows,
    "scratch": lambda n: n.parts * n.keys,
}
_SWIGLU: Sizes = {
    "gate_up": lambda n: 2 * n.rows * n.width,
    "grad_gate_up": lambda n: 2 * n.rows * n.width,
    "out": _rows_by_width,
    "grad": _rows_by_width,
}
_NORM: Sizes = {
    "weight": lambda n: n.width,
    "inverse_rms": lambda n: n.rows,
    "grad_weight": lambda n: n.parts * n.width,
    **dict.fromkeys(("x", "out", "grad", "grad_x"), _rows_by_width),
}
_CACHE: Sizes = dict.fromkeys(
    ("keys", "values"), lambda n: n.layers * n.rows * n.kv_heads * n.capacity * n.d_head
)
SIZES: Mapping[str, Sizes] = {
    "rms_norm": _NORM,
    "rms_norm_back": _NORM,
    "swiglu": _SWIGLU,
    "swiglu_back": _SWIGLU,
    "rotate": {
        "x": _strided("x"),
        "out": _strided("out"),
        **dict.fromkeys(("cos", "sin"), lambda n: n.times * n.pairs),
    },
    "attend": _ATTENTION,
    "attend_back": _ATTENTION,
    "cross_entropy": {"logits": _rows_by_width, "targets": lambda n: n.rows, "nats": lambda n: n.rows},
    "adamw": {"addresses": lambda n: 4 * n.tensors, "sizes": lambda n: n.tensors},
    "decode": {
        **dict.fromkeys(("ids", "row_of", "positions"), lambda n: n.tokens),
        "wanted": lambda n: n.num_wanted,
        **dict.fromkeys(("weights", "scales"), lambda n: n.layers * NUM_MATRICES),
        "embedding": lambda n: n.vocabulary * n.d_model,
        "head": lambda n: n.vocabulary * n.d_model,
        **dict.fromkeys(("embedding_scales", "head_scales"), lambda n: 0),
        "final_norm": lambda n: n.d_model,
        "logits": lambda n: n.num_wanted * n.vocabulary,
        "barrier_state": lambda n: BARRIER_SIZE,
        "scratch": lambda n: (
            n.tokens * (2 * n.d_model + (n.heads + 2 * n.kv_heads) * n.d_head + 2 * n.d_ff)
            + n.parts * (n.capacity + TILE_ROWS * _widest(n))
            + n.parts * n.tokens * (_widest(n) // 2 + ALIGNED)
        ),
        "inputs": lambda n: n.tokens * (n.heads * n.d_head + n.d_ff + n.parts * n.d_model),
        **dict.fromkeys(("cos", "sin"), lambda n: n.capacity * (n.d_head // 2)),
        **_CACHE,
    },
    "sample": {
        "logits": lambda n: (n.rows - 1) * n.stride + n.width,
        "uniforms": lambda n: n.rows,
        "ids": lambda n: n.rows,
        "scratch": lambda n: n.parts * n.width,
        "bins": lambda n: n.parts * NUM_BINS,
    },
}
"""Kernel -> sizes of its memory."""
STRIDED = {("rotate", "x"), ("rotate", "out"), ("sample", "logits")}
"""Memory that a kernel accesses through strides among its arguments; it need not be contiguous."""


UNTYPED = {("decode", name) for name in ("inputs", "embedding_scales", "head_scales")}
"""Memory whose dtype depends on the processor or on that of others: only its size in bytes is checked."""


class KernelMemoryError(TransformerLMError):
    """Memory that does not meet a kernel's requirements: a mistake in this package."""


def check_memory(
    kernel: str, parameters: Mapping[str, str], num_threads: int, arguments: Sequence[Tensor | float]
) -> None:
    """Compare the arguments of a call with the kernel's requirements.

    Args:
        kernel: name without dtypes, such as "rms_norm".
        parameters: name -> type of the kernel's parameters, in order (`Kernel.parameters`).

    Raises:
        KernelMemoryError: naming kernel and parameter.
    """
    named = dict(zip(parameters, arguments, strict=True))
    numbers = SimpleNamespace(parts=num_threads, **named)
    for name, kind in parameters.items():
        argument, where = named[name], f"kernel {kernel}: {name}"
        if kind not in DTYPES:
            if isinstance(argument, Tensor):
                raise KernelMemoryError(f"{where}: expected a number, got a tensor")
            continue
        if not isinstance(argument, Tensor):
            raise KernelMemoryError(f"{where}: expected a tensor, got {argument!r}")
        dtype, needed = DTYPES[kind], SIZES[kernel][name](numbers)
        needed = needed // 2 if kind == "u8*" else needed  # weights in four bits, two in each
        if (kernel, name) in UNTYPED:
            dtype, needed = argument.dtype, -(-needed * dtype.itemsize // argument.element_size())
        _check_tensor(where, argument, dtype, is_strided=(kernel, name) in STRIDED)
        _check_size(where, argument, needed)


def check_tensors(where: str, tensors: Sequence[Tensor], dtype: torch.dtype, sizes: Sequence[int]) -> None:
    """Compare tensors that a kernel gets as a table of addresses with its requirements.

    Raises:
        KernelMemoryError: the message begins with `where`.
    """
    for tensor, size in zip(tensors, sizes, strict=True):
        _check_tensor(where, tensor, dtype, is_strided=False)
        _check_size(where, tensor, size)


def _check_tensor(where: str, tensor: Tensor, dtype: torch.dtype, *, is_strided: bool) -> None:
    if tensor.device.type != "cpu":
        raise KernelMemoryError(f"{where}: expected memory of the CPU, got a tensor on {tensor.device}")
    if tensor.dtype != dtype:
        raise KernelMemoryError(f"{where}: expected {dtype}, got {tensor.dtype}")
    if not is_strided and not tensor.is_contiguous():
        got = f"shape {tuple(tensor.shape)} with strides {tensor.stride()}"
        raise KernelMemoryError(f"{where}: expected contiguous memory, got {got}")


def _check_size(where: str, tensor: Tensor, needed: int) -> None:
    whole = tensor.untyped_storage().nbytes() // tensor.element_size() - tensor.storage_offset()
    available = tensor.numel() if tensor.is_contiguous() else whole
    if available < needed:
        raise KernelMemoryError(f"{where}: expected memory for {needed:,} numbers, got {available:,}")
