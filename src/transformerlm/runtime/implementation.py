"""Choice of implementations by measurement: attention on a CPU, torch.compile on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

import torch

from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.kernels.measured import measured_once
from transformerlm.runtime.device import dtype_name
from transformerlm.runtime.precision import MIN_SPEEDUP
from transformerlm.runtime.runtime import Runtime
from transformerlm.schema import to_dict

Attention = Literal["kernels", "torch"]
Compilation = Literal["eager", "compiled", "compiling"]
ATTENTION: tuple[Attention, ...] = ("kernels", "torch")
COMPILATION: tuple[Compilation, ...] = ("eager", "compiled", "compiling")
"""Passes of a block without and with torch.compile; and the compiling itself."""
Name = TypeVar("Name", bound=str)
Measure = Callable[[ModelConfig, Runtime], Mapping[Name, float]]
"""Function from a model and a runtime to the seconds of the same work in each implementation."""


def choose_attention(
    config: RuntimeConfig, model: ModelConfig, runtime: Runtime, measure: Measure[Attention]
) -> str:
    """Return the implementation that [runtime].attention stands for: a name other than "auto"."""
    if config.attention != "auto":
        return config.attention
    if not runtime.kernels:
        return "torch"
    seconds = _seconds("attention", ATTENTION, model, runtime, measure)
    return "torch" if seconds["kernels"] >= MIN_SPEEDUP * seconds["torch"] else "kernels"


def choose_compilation(
    config: RuntimeConfig,
    model: ModelConfig,
    runtime: Runtime,
    measure: Measure[Compilation],
    *,
    is_long: bool,
    run_seconds: float | None = None,
) -> bool:
    """Return the use of torch.compile that [runtime].compile stands for.

    A whole model is compiled as one function, in about the time of one of its blocks for each of them. In a
    run for a time, that must be less than what faster steps gain.

    Args:
        is_long: True if the run is so long that measuring, up to a minute, is a small part of it.
        run_seconds: duration of the run, if it is known.
    """
    if config.compile != "auto":
        return config.compile
    if runtime.device.type != "cuda" or not is_long:
        return False
    seconds = _seconds("compilation", COMPILATION, model, runtime, measure)
    if seconds["eager"] < MIN_SPEEDUP * seconds["compiled"]:
        return False
    gained = (run_seconds or math.inf) * (1 - seconds["compiled"] / seconds["eager"])
    return gained > model.num_layers * seconds["compiling"]


def _seconds(
    work: str, names: Sequence[Name], model: ModelConfig, runtime: Runtime, measure: Measure[Name]
) -> dict[Name, float]:
    conditions = {
        "work": [work, measure.__module__, measure.__qualname__],
        "model": to_dict(model),
        "runtime": [runtime.device.type, dtype_name(runtime.dtype), runtime.kernels],
        "device": torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else "cpu",
    }
    seconds = measured_once(conditions, names, lambda: measure(model, runtime))
    assert seconds is not None
    return seconds
