"""Limits of this process: the number of processors and the amount of memory that it may use.

A container, a job of Slurm or a service of systemd is a control group, whose share of the processors is
mostly a quota of time: all processors can be seen, and threads beyond the quota take turns. A group's limits
hold for the groups below it, so that the tightest between the process's own group and the topmost visible
one counts. Source: the Linux kernel's documentation, cgroup-v2.rst and cgroup-v1/, and proc(5), mountinfo.
"""

from __future__ import annotations

import functools
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
UNIFIED = "cgroup2"
"""File system type of control groups of version 2, one hierarchy for all controllers; version 1 has one for
each controller or several, of the type "cgroup"."""


def available_cores() -> int:
    """Return the number of processors that this process may keep busy: by affinity (taskset) and by quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, quota_cores() or cores)


@functools.cache
def quota_cores(root: Path = ROOT) -> int | None:
    """Return the number of threads that a quota of processor time keeps busy; None without a quota.

    It is rounded to the nearest: for a quota of 1.9 one thread would leave half of it unused. Read once.

    Args:
        root: folder in place of the root of the file system, for tests.
    """
    quotas = [quota for group in _groups("cpu", root) if (quota := _quota(group)) is not None]
    return max(1, int(min(quotas) + 0.5)) if quotas else None


def processor_name(root: Path = ROOT) -> str:
    """Return the processor's name, or else the machine's architecture.

    Args:
        root: folder in place of the root of the file system, for tests.
    """
    try:
        told = (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        told = ""
    found = re.search(r"^model name\s*:\s*(\S.*)$", told, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def memory_bytes(root: Path = ROOT) -> int | None:
    """Return the memory that this process may use, by the machine's size and its groups; None if unknown."""
    limits = [limit for group in _groups("memory", root) if (limit := _memory_limit(group)) is not None]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def _quota(group: Path) -> float | None:
    """Return the processors' time that a group has per time."""
    numbers = _numbers(group / "cpu.max")  # version 2: quota and period, in microseconds
    if not numbers:
        numbers = _numbers(group / "cpu.cfs_quota_us") + _numbers(group / "cpu.cfs_period_us")
    return numbers[0] / numbers[1] if len(numbers) == 2 and min(numbers) > 0 else None


def _memory_limit(group: Path) -> int | None:
    numbers = _numbers(group / "memory.max") or _numbers(group / "memory.limit_in_bytes")
    return numbers[0] if numbers else None


def _numbers(path: Path) -> list[int]:
    """Return the whole numbers in a file; a missing file, "max" and -1, for no limit, give none."""
    try:
        words = path.read_text().split()
    except OSError:
        return []
    return [int(word) for word in words] if all(word.isdigit() for word in words) else []


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's group and of all groups above it that limit a resource."""
    own = _own_groups(root)
    for top, point, kind, options in _mounts(root):
        name = "" if kind == UNIFIED else controller
        if name not in own or (name and name not in options):
            continue
        path, folder = PurePosixPath(own[name]), root / point.lstrip("/")
        parts = path.relative_to(top).parts if path.is_relative_to(top) else ()
        if ".." in parts:  # outside of what a container with its own namespace of groups can see
            parts = ()
        yield from (folder.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _own_groups(root: Path) -> dict[str, str]:
    """Return controller -> path of this process's group; the controller of version 2 is ""."""
    lines = [line.split(":", 2) for line in _lines(root / "proc/self/cgroup")]
    return {name: path for _, names, path in lines for name in names.split(",")}


def _mounts(root: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield the mounted hierarchies of groups: topmost group, mount point, type, controllers and options."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        if kind in ("cgroup", UNIFIED):
            top, point = (_unescaped(field) for field in before.split(" ")[3:5])
            yield top, point, kind, options.split(",")


def _unescaped(field: str) -> str:
    """Replace octal numbers, as in `\\040` for a space, by their characters."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # not Linux, or hidden
        return []
