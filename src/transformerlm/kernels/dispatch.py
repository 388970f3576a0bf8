"""Calls of the kernels with tensors: which tensors they take, and on which threads they run.

Nothing here is remembered: a model, an optimizer or a call is told to use kernels (nn/fused.py,
optim/adamw.py, infer/generate.py), and asks `can_serve` of each tensor.
"""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import Tensor, nn

from transformerlm.kernels import checks
from transformerlm.kernels.library import Library

LIBRARY = Library("training", "transformerlm.kernels.training", [], 10)
_PLAIN = (Tensor, nn.Parameter)  # a subclass, such as a sharded tensor, keeps its numbers its own way
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def can_serve(*tensors: Tensor) -> bool:
    """Return True if the kernels take such tensors: plain ones on a CPU, in float32 or bfloat16."""
    if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") not in _NAMES:
        return False
    return all(
        type(tensor) in _PLAIN and tensor.device.type == "cpu" and tensor.dtype in _NAMES
        for tensor in tensors
    )


def run(kernel: str, dtypes: tuple[torch.dtype, ...], *arguments: Tensor | float) -> None:
    """Run a training kernel on PyTorch's threads.

    Args:
        kernel: its name without dtypes, such as "swiglu".
        dtypes: which of its variants.
        arguments: its parameters in order. Tensors must be contiguous and large enough: a kernel cannot
            know. The debug mode (checks.py) checks it.
    """
    run_on(torch.get_num_threads(), LIBRARY, kernel, dtypes, *arguments)


def run_on(
    num_threads: int,
    library: Library,
    kernel: str,
    dtypes: tuple[torch.dtype, ...],
    *arguments: Tensor | float,
) -> None:
    """Run a kernel of any library on so many threads; see `run`."""
    compiled = getattr(library.kernels(), "_".join((kernel, *(_NAMES[dtype] for dtype in dtypes))))
    if checks.IS_ON:
        checks.check_memory(kernel, compiled.parameters, num_threads, arguments)
    values = (value.data_ptr() if isinstance(value, Tensor) else value for value in arguments)
    compiled.share(num_threads, *values)


def keep_freed_memory() -> None:
    """Keep memory that tensors free with the process, for the next ones. Global to the process.

    The C library would give large blocks back to the system at once, and get them anew for the next tensor:
    every page then costs a fault and a wiping, which takes longer than most operations on it.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        # Named in glibc's malloc.h: never map blocks apart, never trim the heap, grow it by this much.
        mmap_max, trim_threshold, top_pad = -4, -1, -2
        for parameter, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 * 2**20)):
            library.mallopt(parameter, value)
