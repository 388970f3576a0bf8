"""Device, precision and implementation of the computation: [runtime], resolved.

`Runtime.from_config` changes nothing in the process; `prepare_process` sets up the process of a command. Also
here: measuring the speed of the device, and out-of-memory errors. No other module looks for devices or
decides whether kernels are used.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from transformerlm.config import RuntimeConfig
from transformerlm.errors import ConfigError, Key, TransformerLMError
from transformerlm.kernels.dispatch import compute_on_one_thread_after_forks, keep_freed_memory
from transformerlm.progress import Reporter

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """A device, the precision of its matrix products, and whether the CPU kernels are used."""

    device: torch.device
    dtype: torch.dtype
    kernels: bool = False
    """Compute in this package's own CPU kernels rather than in PyTorch's operations."""

    @classmethod
    def from_config(cls, config: RuntimeConfig) -> Runtime:
        """Resolve "auto" and the use of kernels, without changing the process; for its forked children see
        `compute_on_one_thread_after_forks`.

        Raises:
            ConfigError: this machine does not have the device asked for.
        """
        compute_on_one_thread_after_forks()
        device = resolve_device(config.device)
        dtype = resolve_dtype(config.dtype, device)
        # The kernels do not support float16, and torch.compile generates its own.
        can_serve = device.type == "cpu" and dtype != torch.float16 and not config.compile
        return cls(device, dtype, config.kernels and can_serve)

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
        precision = str(self.dtype).removeprefix("torch.")
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {precision}"
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        return f"{self.device.type}, {precision}{threads}"


def prepare_process(config: RuntimeConfig) -> Runtime:
    """Set up the process of a command according to [runtime], and return its runtime.

    Sets torch's thread count, seed and determinism, and the allocator: all of it global to the process. For
    commands only: a library function must not change its host's process.

    Raises:
        ConfigError: this machine does not have the device asked for.
    """
    runtime = Runtime.from_config(config)
    if runtime.device.type == "cpu":
        keep_freed_memory()
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    if config.deterministic:
        # Read by cuBLAS when it starts; without it torch refuses its products.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.manual_seed(config.seed)
    return runtime


def resolve_device(name: str) -> torch.device:
    """Return the device that [runtime].device names; "auto" takes cuda, else mps, else cpu."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, here in present.items() if here))
    if not present[name]:
        here = ", ".join(device for device in present if present[device])
        what = f"expected a device of this machine ({here}), got {name}"
        raise ConfigError(what, key=Key("runtime", "device"))
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the precision that [runtime].dtype names; "auto" takes bfloat16 where the hardware has it."""
    if name == "auto":
        return torch.bfloat16 if has_quick_bfloat16(device) else torch.float32
    return DTYPES[name]


def has_quick_bfloat16(device: torch.device) -> bool:
    """Return True if bfloat16 products run on their own instructions, not on an emulation that is slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
        return any(getattr(torch.cpu, test, lambda: False)() for test in tests)
    return False


def compiled(
    module: nn.Module, example: tuple[Tensor, ...], runtime: Runtime, reporter: Reporter
) -> nn.Module:
    """Return `torch.compile(module)` after a trial forward and backward pass on the `example` arguments.

    If that fails, warn once and return the module itself.
    """
    try:
        candidate = cast(nn.Module, torch.compile(module))
        with runtime.autocast():
            candidate(*example).sum().backward()
    except RuntimeError as error:  # raised if torch's compiler or the C++ compiler fails
        reporter.say(f"torch.compile failed, going on without it: {str(error).splitlines()[0]}")
        return module
    finally:
        module.zero_grad(set_to_none=True)
    return candidate


def measured_flops_ceiling(runtime: Runtime, seconds: float = 0.25) -> float:
    """Measure the FLOP/s of a square matrix product on this device in this precision.

    Model FLOPs utilisation is a fraction of this ceiling; a datasheet's figure may not hold for this machine.
    The size doubles while a product takes little time, and the fastest product counts: a busy moment does not
    lower the result, and an emulated precision does not prolong the measurement.
    """
    best, size, deadline = 0.0, 128, time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        elapsed = _time_product(runtime, size)
        best = max(best, 2 * size**3 / elapsed)
        if elapsed < seconds / 20 and size < 8192:
            size *= 2
    return best


def _time_product(runtime: Runtime, size: int) -> float:
    # A separate generator: measuring must not advance the global one, which a resumed run has restored.
    own = torch.Generator(runtime.device).manual_seed(size)
    numbers = torch.randn(2, size, size, generator=own, dtype=torch.float32, device=runtime.device)
    left, right = numbers.to(runtime.dtype)
    left[:1] @ right  # pays for loading the library
    runtime.synchronize()
    start = time.perf_counter()
    left @ right
    runtime.synchronize()
    return time.perf_counter() - start


SMALLER_MICRO_BATCH = "take a smaller [training].micro_batch_size"
SMALLER_MODEL = "take a smaller model or [model].context_length, or [runtime].activation_checkpointing = true"
OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "MPS backend out of memory",
    "could not create a primitive",
    "std::bad_alloc",
)
"""Messages of out-of-memory errors that are plain RuntimeErrors (CUDA's have a class). "could not create a
primitive" is oneDNN's when it cannot allocate its workspace; it has other causes too, which smaller
micro-batches do not remedy."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if PyTorch found no memory for a tensor."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


@contextlib.contextmanager
def memory_for(what: str, advice: str = SMALLER_MODEL) -> Iterator[None]:
    """Context manager that turns an out-of-memory error into a one-line error about the purpose `what`.

    Raises:
        TransformerLMError: in place of PyTorch's own error.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise TransformerLMError(f"out of memory for {what}: {advice} ({first_line(error)})") from None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).partition("\n")[0]
