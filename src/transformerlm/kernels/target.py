"""Target processor of the kernels: this machine's, or one with fewer instructions, for tests."""

from __future__ import annotations

import functools
import os
import platform
import sys
from dataclasses import dataclass

from transformerlm.errors import ConfigError

CPU_VARIABLE = "TRANSFORMERLM_CPU"
"""Environment variable: instruction set of the kernels, "native" (default) or one of LEVELS."""

_V2 = ("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt")
_V3 = (*_V2, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
LEVELS = {"sse4": ("x86-64-v2", _V2), "avx2": ("x86-64-v3", _V3), "avx512": ("x86-64-v4", _V4)}
"""Choice -> LLVM's name of the level, and the instructions that it consists of."""
FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine()) if sys.platform == "linux" else None
"""Number of Linux's system call with which threads sleep until others wake them; None where there is none."""


@dataclass(frozen=True)
class Target:
    """A processor as LLVM describes it."""

    name: str
    """LLVM's name, such as "znver3" or "x86-64-v3"."""
    features: str
    """Instructions added to or removed from that name's, in LLVM's syntax: "+avx2,-sse4a"."""
    instructions: frozenset[str]
    """Names of the instruction sets that it has."""
    is_native: bool = True
    """True if it is this machine's processor, unrestricted."""


@functools.cache
def target() -> Target:
    """Return the processor to compile for, chosen by the environment variable.

    Raises:
        ConfigError: for an unknown choice, or instructions that this processor lacks.
    """
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    host = Target(
        llvm.get_host_cpu_name(), features.flatten(), frozenset(name for name, has in features.items() if has)
    )
    return resolve_target(cpu_choice(), host)


def cpu_choice() -> str:
    """Return the value of the environment variable, not yet checked."""
    return os.environ.get(CPU_VARIABLE) or "native"


def check_cpu_choice(choice: str) -> None:
    """Refuse a choice that is neither "native" nor one of LEVELS.

    Raises:
        ConfigError: it is neither.
    """
    if choice not in ("native", *LEVELS):
        names = ", ".join(f'"{name}"' for name in ("native", *LEVELS))
        raise ConfigError(f"{CPU_VARIABLE}: expected one of {names}, got {choice!r}")


def resolve_target(choice: str, host: Target) -> Target:
    """Return the target that a choice ("native" or one of LEVELS) stands for on a host.

    Raises:
        ConfigError: for an unknown choice, or instructions that the host lacks.
    """
    if choice == "native":
        return host
    check_cpu_choice(choice)
    name, instructions = LEVELS[choice]
    if missing := sorted(set(instructions) - host.instructions):
        what = f"expected instructions that this processor ({host.name}, {platform.machine()}) has"
        raise ConfigError(f"{CPU_VARIABLE}: {what}, got {choice!r}, which needs {', '.join(missing)}")
    return Target(name, "", frozenset(instructions), is_native=False)
