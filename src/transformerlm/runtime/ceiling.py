"""Ceiling of the device: the FLOP/s of its fastest matrix product."""

from __future__ import annotations

import time

import torch

from transformerlm.runtime.runtime import Runtime


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
