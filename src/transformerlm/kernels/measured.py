"""Times that were measured on this machine, kept beside the compiled kernels. Imports no PyTorch.

What is fast is measured once per machine: each answer stands in a file of its own, under all that it depends
on. Remove `speed-*.json` in the folder of the kernels to measure again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from transformerlm import __version__
from transformerlm.errors import OutputError
from transformerlm.kernels.environment import cache_dir
from transformerlm.limits import available_cores, quota_cores
from transformerlm.storage.checksummed_json import RecordFormat, dump, load
from transformerlm.storage.files import committed_file

FORMAT = RecordFormat(version=1, checksum_since=1, members={"seconds": dict})
_RESTRICTIONS = ("ATEN_", "DNNL_", "MKL_", "ONEDNN_", "OMP_", "GOMP_CPU", "TRANSFORMERLM_CPU")
"""Prefixes of environment variables that restrict the instructions or the threads of PyTorch's libraries."""

Name = TypeVar("Name", bound=str)


def measured_once(
    conditions: Mapping[str, object],
    names: Sequence[Name],
    measure: Callable[[], Mapping[Name, float] | None],
) -> dict[Name, float] | None:
    """Return the seconds that are kept for each name; if there are none, measure and keep them.

    Args:
        conditions: JSON values: the work, and what it depends on besides `this_machine`.
        measure: returns None for a result that does not count; nothing is kept then, and None returned.
    """
    path = _path_of({**conditions, "machine": this_machine()})
    if (kept := _read(path, names)) is not None:
        return kept
    if (seconds := measure()) is None:
        return None
    if (kept := _read(path, names)) is not None:
        return kept  # of a process that began at the same time: the next one shall find what this one uses
    # A folder that may not be written, or a full disk: measured each time.
    with contextlib.suppress(OSError, OutputError), committed_file(path) as file:
        file.write(dump({"format_version": FORMAT.version, "seconds": dict(seconds)}))
    return dict(seconds)


def _read(path: Path, names: Sequence[Name]) -> dict[Name, float] | None:
    try:
        seconds = load(path.read_bytes(), FORMAT)["seconds"]
    except (OSError, ValueError):
        return None
    is_valid = all(isinstance(seconds.get(name), float) and 0 < seconds[name] < math.inf for name in names)
    return {name: seconds[name] for name in names} if is_valid else None


def this_machine() -> dict[str, object]:
    """Return what every measurement depends on: processor, processors and quota, restrictions, versions."""
    return {
        "processor": _processor(),
        "cores": [available_cores(), quota_cores()],
        "restrictions": {key: os.environ[key] for key in sorted(os.environ) if key.startswith(_RESTRICTIONS)},
        "versions": _versions(),
    }


@functools.cache
def _versions() -> list[str]:
    return [__version__, *map(importlib.metadata.version, ("torch", "numba", "llvmlite"))]


@functools.cache
def _processor() -> list[str]:
    """Return the machine's architecture, and the processor's name and instructions where Linux tells them."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
    except OSError:
        return [platform.machine(), platform.processor()]
    told = ("vendor_id", "model", "stepping", "flags", "Features", "CPU")
    return [platform.machine(), *(line for line in first.splitlines() if line.startswith(told))]


def _path_of(conditions: Mapping[str, object]) -> Path:
    key = hashlib.sha256(json.dumps(conditions).encode()).hexdigest()[:24]
    return cache_dir() / f"speed-{key}.json"
