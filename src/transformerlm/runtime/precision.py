"""Choice of the precision of matrix products: what this machine is fast at, measured once and kept.

A flag of the processor does not tell: of two processors that have bfloat16 instructions, one multiplies twice
as fast with them, the other half as fast. What is measured is kept beside the compiled kernels, under
processor, versions, threads and sizes, so that the same model computes in the same precision each time that
it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.kernels import measured
from transformerlm.kernels.dispatch import num_threads
from transformerlm.runtime.device import DtypeName, resolve_device
from transformerlm.runtime.speed import product_seconds
from transformerlm.schema import to_dict

MIN_SPEEDUP = 1.1
"""Speed relative to float32 from which "auto" takes bfloat16, which has 8 bits where float32 has 24: less is
within what two measurements differ by, and would not be worth the bits."""

Measure = Callable[[ModelConfig, RuntimeConfig, Sequence[DtypeName]], dict[DtypeName, float]]
"""Function from a model, [runtime] and names of precisions to the seconds of the same work in each."""


@dataclass(frozen=True)
class Precision:
    """A dtype by name, and what was measured for it."""

    name: DtypeName
    reason: str = ""
    """For "auto" on a CPU: how fast bfloat16 is here."""
    warning: str = ""
    """For a precision asked for by name that is slower than float32."""


def choose_precision(
    config: RuntimeConfig, model: ModelConfig, measure: Measure = product_seconds
) -> Precision:
    """Return the precision that [runtime].dtype stands for, for a model of these sizes.

    On a CPU "auto" is bfloat16 if it is at least MIN_SPEEDUP times as fast as float32. A GPU is not measured:
    it has bfloat16 in its matrix units or not at all.

    Args:
        measure: the work that the precision is for.

    Raises:
        ConfigError: this machine does not have [runtime].device.
    """
    device = resolve_device(config.device)
    if device.type != "cpu":
        return Precision(precision_of(device) if config.dtype == "auto" else config.dtype)
    if config.dtype == "float32":
        return Precision(config.dtype)
    other: DtypeName = "bfloat16" if config.dtype == "auto" else config.dtype
    seconds = measured_once(measure, config, model, ("float32", other))
    speedup = seconds["float32"] / seconds[other]
    if config.dtype == "auto":
        return _faster(other, speedup)
    return Precision(other, warning=_warning(other, speedup) if speedup < 1 / MIN_SPEEDUP else "")


def precision_of(device: torch.device) -> DtypeName:
    """Return the precision that "auto" stands for on a device that is not measured: a GPU."""
    has_units = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_units else "float32"


def _faster(other: DtypeName, speedup: float) -> Precision:
    if speedup >= MIN_SPEEDUP:
        return Precision(other, f"{_shown(speedup)} x float32's speed")
    return Precision("float32", f"{other} has {_shown(speedup)} x its speed")


def _warning(name: str, speedup: float) -> str:
    what = f"{name} takes {_shown(1 / speedup)} x as long as float32 on this processor"
    return f'warning: [runtime].dtype: {what}; "auto" takes the faster of float32 and bfloat16'


def _shown(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.3g}"


def measured_once(
    measure: Measure, config: RuntimeConfig, model: ModelConfig, names: Sequence[DtypeName]
) -> dict[DtypeName, float]:
    """Return what `measure` has found for this machine and model; it is called if nothing is kept."""
    conditions = {
        "work": [measure.__module__, measure.__qualname__, *names],
        "model": to_dict(model),
        "settings": [config.kernels, config.attention],
        "threads": [torch.get_num_threads(), num_threads()],
    }
    seconds = measured.measured_once(conditions, names, lambda: measure(model, config, names))
    assert seconds is not None
    return seconds
