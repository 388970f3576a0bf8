"""Calls of the kernels with tensors: which tensors they accept, and on which threads they run.

This module has no state: a model, an optimizer or a call decides to use kernels (nn/fused.py, optim/adamw.py,
infer/generate.py), and checks its tensors with `can_serve`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from transformerlm.kernels import checks, libraries
from transformerlm.kernels.library import Kernel, Library
from transformerlm.kernels.teams import run_on_team
from transformerlm.limits import quota_cores

LIBRARY = libraries.TRAINING
_PLAIN = (Tensor, nn.Parameter)  # a subclass, such as DTensor, may store its data in another way
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def can_serve(*tensors: Tensor) -> bool:
    """Return True if the kernels accept these tensors: plain ones on a CPU, in float32 or bfloat16."""
    if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") not in _NAMES:
        return False
    return all(
        type(tensor) in _PLAIN and tensor.device.type == "cpu" and tensor.dtype in _NAMES
        for tensor in tensors
    )


def run(kernel: str, dtypes: tuple[torch.dtype, ...], *arguments: Tensor | float) -> None:
    """Run a training kernel on `num_threads()` threads.

    Args:
        kernel: name without dtypes, such as "swiglu".
        dtypes: of the variant to run.
        arguments: values of its parameters in order. Tensors must be contiguous and large enough, which is
            verified in debug mode only (checks.py).
    """
    threads = num_threads()
    compiled, values = _prepared(threads, LIBRARY, kernel, dtypes, arguments)
    compiled.run_on_threads(threads, *values)


def num_threads() -> int:
    """Return the number of threads for a kernel: PyTorch's, but no more than a quota of processor time keeps
    busy.

    PyTorch counts the processors that it sees. Threads that wait for each other, as those of kernels, are
    slower than one thread if they take turns.
    """
    return min(torch.get_num_threads(), quota_cores() or torch.get_num_threads())


def run_on(
    num_threads: int,
    library: Library,
    kernel: str,
    dtypes: tuple[torch.dtype | str, ...],
    *arguments: Tensor | float,
) -> None:
    """Run a kernel of any library on `num_threads` threads of its own (teams.py); see `run`.

    Args:
        dtypes: of the variant, each as a dtype or by the name that the kernel has it by, such as "int8".
    """
    compiled, values = _prepared(num_threads, library, kernel, dtypes, arguments)
    run_on_team(compiled, num_threads, *values)


def _prepared(
    num_threads: int,
    library: Library,
    kernel: str,
    dtypes: tuple[torch.dtype | str, ...],
    arguments: Sequence[Tensor | float],
) -> tuple[Kernel, Iterator[float]]:
    """Return a compiled kernel and its arguments as numbers, checked in debug mode."""
    names = (dtype if isinstance(dtype, str) else _NAMES[dtype] for dtype in dtypes)
    compiled = getattr(library.kernels(), "_".join((kernel, *names)))
    if checks.IS_ON:
        checks.check_memory(kernel, compiled.parameters, num_threads, arguments)
    return compiled, (value.data_ptr() if isinstance(value, Tensor) else value for value in arguments)


@functools.cache
def compute_on_one_thread_after_forks() -> None:
    """Let PyTorch compute on one thread in the children that this process forks.

    A child has none of its parent's threads: PyTorch's OpenMP, once used, would wait for them for ever. Each
    process that a child starts anew is not affected.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def keep_freed_memory() -> None:
    """Make the C library keep freed memory for the next tensors. Global to the process.

    By default it returns large blocks to the system at once and requests new ones for the next tensor: each
    page then costs a page fault and zeroing, which takes longer than most operations on it.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        # Parameters of glibc's malloc.h: no separate mappings, no trimming of the heap, its growth in bytes.
        mmap_max, trim_threshold, top_pad = -4, -1, -2
        for parameter, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 * 2**20)):
            library.mallopt(parameter, value)
