"""Record of what this process does to the files below one folder, call by call, with faults at any call.

It replaces the functions of `os` and `io`: every way in which Python code makes, writes, renames or removes a
file is seen, also past the package's own module for that.
"""

import builtins
import errno
import io
import os
from dataclasses import dataclass, field
from pathlib import Path

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MAKES_LARGER = {"open", "write", "mkdir", "fsync", "ftruncate"}
"""Calls that a full disk refuses."""


@dataclass
class WatchedDisk:
    """Calls are numbered from 1. Install it in a process of its own: it stays as long as that lives."""

    root: Path
    crash_at: int = 0
    """Number of the call before which the process ends, or of the write after half of which. 0: none."""
    full_at: int = 0
    """Number of the call from which on the disk is full. 0: never."""
    full_once: bool = False
    """The disk is full at that call only."""
    loses_power: bool = False
    """The machine ends with the process: half of each file that was not synchronised is lost."""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Name of the call, and the path relative to the root; of a rename both, with " -> " between."""
    unsynchronised: set[str] = field(default_factory=set)

    def install(self) -> None:
        for name in ("mkdir", "rmdir", "unlink", "remove"):
            self._replace(os, name, self._on_path(name, getattr(os, name)))
        for name in ("rename", "replace"):
            self._replace(os, name, self._on_two_paths(getattr(os, name)))
        for name in ("write", "fsync", "ftruncate"):
            self._replace(os, name, self._on_descriptor(name, getattr(os, name)))
        self._replace(os, "open", self._os_open(os.open))
        opener = self._open(io.open)
        self._replace(io, "open", opener)
        self._replace(builtins, "open", opener)

    def _replace(self, module, name, function) -> None:
        setattr(module, name, function)

    def before(self, name: str, path: str | None, data=b"", descriptor: int | None = None) -> None:
        """Note a call, and fail in it if it is its turn."""
        if path is None:
            return
        self.calls.append((name, path))
        if len(self.calls) == self.crash_at:
            if name == "write" and descriptor is not None:
                REAL["write"](descriptor, bytes(data)[: len(data) // 2])
                self.unsynchronised.add(path)
            self._end()
        is_full = self.full_at and (
            len(self.calls) == self.full_at if self.full_once else len(self.calls) >= self.full_at
        )
        if is_full and name in MAKES_LARGER:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.root / path))
        if name in ("write", "ftruncate"):
            self.unsynchronised.add(path)
        elif name == "fsync":
            self.unsynchronised.discard(path)
        elif name == "rename":
            source, target = path.split(" -> ")
            self.unsynchronised = {
                target + other.removeprefix(source) if (other + "/").startswith(source + "/") else other
                for other in self.unsynchronised
            }

    def _end(self) -> None:
        for path in self.unsynchronised if self.loses_power else ():
            # Records are written line by line and not synchronised: that is not promised for a power failure.
            if (self.root / path).is_file() and not path.endswith(("metrics.jsonl", "output")):
                os.truncate(self.root / path, (self.root / path).stat().st_size // 2)
        os._exit(137)

    def relative(self, path, dir_fd=None) -> str | None:
        """The path below the root; None for one that is elsewhere."""
        if isinstance(path, int):
            path = opened_path(path)
        folder = opened_path(dir_fd) if dir_fd is not None else str(Path.cwd())
        absolute = os.path.normpath(Path(folder, path))
        # The heartbeat of a run is written by the clock, and may be lost.
        is_left_out = absolute.endswith(("/output", "/control/status.json"))
        is_below = absolute.startswith(f"{self.root}{os.sep}") and not is_left_out
        return os.path.relpath(absolute, self.root) if is_below else None

    def _on_path(self, name, real):
        def call(path, *arguments, dir_fd=None, **options):
            self.before(name.replace("remove", "unlink"), self.relative(path, dir_fd))
            return real(path, *arguments, dir_fd=dir_fd, **options)

        return call

    def _on_two_paths(self, real):
        def call(source, target, **options):
            from_, to = self.relative(source), self.relative(target)
            self.before("rename", f"{from_} -> {to}" if to else None)
            return real(source, target, **options)

        return call

    def _on_descriptor(self, name, real):
        def call(descriptor, *arguments):
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            self.before(name, self.relative(number), arguments[0] if name == "write" else b"", number)
            return real(descriptor, *arguments)

        return call

    def _os_open(self, real):
        def call(path, flags, *arguments, dir_fd=None, **options):
            if flags & WRITING:
                self.before("open", self.relative(path, dir_fd))
            return real(path, flags, *arguments, dir_fd=dir_fd, **options)

        return call

    def _open(self, real):
        disk = self

        class Raw(io.FileIO):
            def write(self, data):
                disk.before("write", disk.relative(self.fileno()), data, self.fileno())
                return super().write(data)

            def truncate(self, size=None):
                disk.before("ftruncate", disk.relative(self.fileno()))
                return super().truncate(size)

        def call(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *rest, **options):
            if isinstance(file, int) or not set(mode) & set("wxa+") or disk.relative(file) is None:
                return real(file, mode, buffering, encoding, errors, newline, *rest, **options)
            disk.before("open", disk.relative(file))
            raw = Raw(file, mode.replace("b", "").replace("t", ""))
            if buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

        return call


def opened_path(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink()).removesuffix(" (deleted)")


REAL = {"write": os.write}


def faults_of_order(calls: list[tuple[str, str]]) -> list[str]:
    """What is wrong with the order of calls: each rename to a name that readers know has to come after all
    of what is renamed was synchronised, and before the folder around it is."""
    found, unsynchronised = [], set()
    for number, (name, path) in enumerate(calls):
        if name in ("open", "write", "ftruncate", "mkdir"):
            unsynchronised.add(path)
        elif name == "fsync":
            unsynchronised.discard(path)
        elif name == "rename":
            source, target = path.split(" -> ")
            own = {other for other in unsynchronised if (other + "/").startswith(source + "/")}
            unsynchronised -= own
            if ".tmp." in Path(target).name:  # moved out of readers' sight to be removed
                continue
            found += [f"{path}: {other} was not synchronised before" for other in sorted(own)]
            folder = str(Path(target).parent)
            later = [other for name, other in calls[number + 1 :] if name == "fsync"]
            if folder not in later[:1]:
                found.append(f"{path}: {folder} was not synchronised after")
    return found
