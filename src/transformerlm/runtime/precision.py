"""Choice of the precision of matrix products: what this machine is fast at, measured once and kept.

A flag of the processor does not tell: of two processors that have bfloat16 instructions, one multiplies twice
as fast with them, the other half as fast. What is measured is kept beside the compiled kernels, under
processor, versions, threads and sizes, so that the same model computes in the same precision each time that
it is loaded.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from transformerlm import __version__
from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.errors import OutputError
from transformerlm.kernels.dispatch import num_threads
from transformerlm.kernels.library import cache_dir
from transformerlm.kernels.target import target
from transformerlm.runtime.device import DtypeName, resolve_device
from transformerlm.runtime.speed import product_seconds
from transformerlm.schema import to_dict
from transformerlm.storage.checksummed_json import RecordFormat, dump, load
from transformerlm.storage.files import committed_file

MIN_SPEEDUP = 1.1
"""Speed relative to float32 from which "auto" takes bfloat16, which has 8 bits where float32 has 24: less is
within what two measurements differ by, and would not be worth the bits."""
FORMAT = RecordFormat(version=1, checksum_since=1, members={"seconds": dict})
_LIMITS = ("ATEN_", "DNNL_", "MKL_", "ONEDNN_")
"""Prefixes of environment variables that restrict the instructions of PyTorch's libraries."""

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
    path = _path_of(measure, config, model, names)
    if (kept := _read(path, names)) is not None:
        return kept
    seconds = measure(model, config, names)
    # A folder that may not be written, or a full disk: measured each time.
    with contextlib.suppress(OSError, OutputError), committed_file(path) as file:
        file.write(dump({"format_version": FORMAT.version, "seconds": seconds}))
    return seconds


def _read(path: Path, names: Sequence[DtypeName]) -> dict[DtypeName, float] | None:
    try:
        seconds = load(path.read_bytes(), FORMAT)["seconds"]
    except (OSError, ValueError):
        return None
    is_valid = all(isinstance(seconds.get(name), float) and 0 < seconds[name] < math.inf for name in names)
    return {name: seconds[name] for name in names} if is_valid else None


@functools.cache
def _versions() -> list[str]:
    return [__version__, *map(importlib.metadata.version, ("torch", "numba", "llvmlite"))]


def _path_of(measure: Measure, config: RuntimeConfig, model: ModelConfig, names: Sequence[DtypeName]) -> Path:
    processor = target()
    conditions = {
        "work": [measure.__module__, measure.__qualname__, *names],
        "model": to_dict(model),
        "settings": [config.kernels, config.attention],
        "processor": [processor.name, processor.features, torch.backends.cpu.get_cpu_capability()],
        "threads": [torch.get_num_threads(), num_threads()],
        "limits": {key: value for key, value in sorted(os.environ.items()) if key.startswith(_LIMITS)},
        "versions": _versions(),
    }
    key = hashlib.sha256(json.dumps(conditions).encode()).hexdigest()[:24]
    return cache_dir() / f"speed-{key}.json"
