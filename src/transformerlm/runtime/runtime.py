"""Device, precision and implementation of the computation: [runtime], resolved.

`Runtime.from_config` changes nothing in the process; `prepare_process` sets up the process of a command. No
other module decides whether kernels are used.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn

from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.kernels.dispatch import compute_on_one_thread_after_forks, keep_freed_memory, num_threads
from transformerlm.progress import Reporter, counted
from transformerlm.runtime.device import DTYPES, resolve_device
from transformerlm.runtime.out_of_memory import is_out_of_memory
from transformerlm.runtime.precision import Precision, choose_precision

TYPICAL = ModelConfig(vocab_size=4096)
"""Sizes for which "auto" chooses a precision if the model is not known."""


@dataclass(frozen=True)
class Runtime:
    """A device, the precision of its matrix products, and whether the CPU kernels are used."""

    device: torch.device
    dtype: torch.dtype
    kernels: bool = False
    """Compute in this package's own CPU kernels rather than in PyTorch's operations."""
    reason: str = field(default="", compare=False)
    """Result of the measurement, where "auto" chose the dtype by it."""
    weights: str = ""
    """Storage of the matrices, where it is not `dtype`: "int8" or "int4"."""
    asynchronous: bool = False
    """True if the device computes while the host goes on, so that each number that is read costs time."""

    @classmethod
    def from_config(cls, config: RuntimeConfig, model: ModelConfig = TYPICAL) -> Runtime:
        """Resolve "auto" and the use of kernels, without changing the process.

        Args:
            model: sizes of the products by which a precision is chosen.

        Raises:
            ConfigError: this machine does not have the device asked for.
        """
        if config.dtype != "auto":
            return cls.of(config, Precision(config.dtype))
        return cls.of(config, choose_precision(config, model))

    @classmethod
    def of(cls, config: RuntimeConfig, precision: Precision) -> Runtime:
        """Resolve [runtime] with a precision that has been chosen.

        Nothing in the process changes; for its forked children see `compute_on_one_thread_after_forks`.

        Raises:
            ConfigError: this machine does not have the device asked for.
        """
        compute_on_one_thread_after_forks()
        device, dtype = resolve_device(config.device), DTYPES[precision.name]
        # The kernels do not support float16, and torch.compile generates its own.
        can_serve = device.type == "cpu" and dtype != torch.float16 and config.compile is not True
        asynchronous = device.type == "cuda"
        return cls(device, dtype, config.kernels and can_serve, precision.reason, asynchronous=asynchronous)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Matrix products in `dtype`, all else in float32; does nothing where `dtype` is float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def synchronize(self) -> None:
        """Wait until the device has finished all its work (needed before reading a clock)."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def __str__(self) -> str:
        precision = str(self.dtype).removeprefix("torch.") + (f" ({self.reason})" if self.reason else "")
        precision = f"{self.weights} weights, {precision}" if self.weights else precision
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {precision}"
        threads = f", {counted(torch.get_num_threads(), 'thread')}" if self.device.type == "cpu" else ""
        return f"{self.device.type}, {precision}{threads}"


def prepare_process(config: RuntimeConfig, model: ModelConfig = TYPICAL) -> Runtime:
    """Set up the process of a command according to [runtime], and return its runtime.

    Raises:
        ConfigError: this machine does not have the device asked for.
    """
    set_up_process(config)
    return Runtime.from_config(config, model)


def set_up_process(config: RuntimeConfig) -> None:
    """Set torch's thread count, seed and determinism, and the allocator: all of it global to the process.

    For commands only: a library function must not change its host's process.

    Raises:
        ConfigError: this machine does not have the device asked for.
    """
    is_cpu = resolve_device(config.device).type == "cpu"
    if is_cpu:
        keep_freed_memory()
    torch.set_num_threads(num_threads() if config.num_threads == "auto" else config.num_threads)
    if (
        config.deterministic and not is_cpu
    ):  # which has no others; asking imports torch's compiler, for seconds
        # Read by cuBLAS when it starts; without it torch refuses its products.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.manual_seed(config.seed)


def compiled(
    module: nn.Module, example: tuple[object, ...], runtime: Runtime, reporter: Reporter
) -> nn.Module:
    """Return `torch.compile(module)` after a trial forward and backward pass on the `example` arguments.

    If that fails, warn once and return the module itself. Code is compiled for the shapes that it meets, one
    by one: code for any shape is slower, and a second shape would have the first one's replaced by such.

    Raises:
        RuntimeError: out of memory.
    """
    try:
        candidate = cast(nn.Module, torch.compile(module, dynamic=False))
        with runtime.autocast():
            candidate(*example).sum().backward()
    except RuntimeError as error:  # raised if torch's compiler or the C++ compiler fails
        if is_out_of_memory(error):
            raise
        reporter.say(f"torch.compile failed, going on without it: {str(error).splitlines()[0]}")
        return module
    finally:
        module.zero_grad(set_to_none=True)
    return candidate
