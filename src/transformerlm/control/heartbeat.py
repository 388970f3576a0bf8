"""The state of a run as its own process records it: `RUN/control/status.json`.

The file is overwritten in place, in microseconds: renaming a new one over it, as other files are committed,
takes milliseconds on some file systems. It always has the same size, and a checksum of itself, so that a
reader knows if it has read a part of one state and a part of the next, and reads again. It is not flushed to
the disk: after a power failure it may be old or damaged, which is taken for none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformerlm.storage.checksummed_json import RecordError, RecordFormat, dump, load
from transformerlm.storage.untrusted import open_regular

CONTROL_DIR = "control"
"""Name of the folder inside a run's."""
STATUS_FILE = "status.json"
FORMAT = RecordFormat(version=1, checksum_since=1, members={"heartbeat": dict})
STATUS_BYTES = 4096
"""Size of the file, which is filled up with spaces."""
MAX_TEXT = 400
"""Length to which texts in it are cut: at most 2,400 bytes as JSON."""
READ_ATTEMPTS, ATTEMPT_SECONDS = 4, 0.002
"""Attempts to read a file that is not whole, and the seconds between them."""
MAX_FILE_BYTES = 2**16
"""Limit for files in that folder, which have some hundred bytes."""

STARTING, TRAINING, FINISHING = "starting", "training", "finishing"
COMPLETE, STOPPED, FAILED = "complete", "stopped", "failed"
ENDS = (COMPLETE, STOPPED, FAILED)
"""Phases that a run ends with; those before are these and the kinds of work between steps."""


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """Last record of a training process about itself. Times are seconds since 1970, by its clock."""

    start_id: str
    """Random name of this start of the run; a request is for one start only."""
    host: str
    pid: int
    """For people: nothing is concluded from it."""
    started_at: float
    written_at: float
    phase: str
    step: int
    """Completed optimizer steps."""
    reason: str = ""
    """Reason of the run's end, in words."""
    done: str = ""
    """Used part of a budget in time or tokens, in words."""
    end_step: int | None = None
    """Step at which the run is expected to end; None if that is not known yet."""
    seconds_left: float | None = None
    """Time until then, by the mean pace."""
    longest_pause_seconds: float = 0.0
    """Longest time between two steps of this process, with what was done between them."""
    memory_bytes: int | None = None
    """Resident memory of the process; None where the system does not tell."""
    device_memory_bytes: int | None = None
    """Memory of the GPU that the process has reserved; None on a CPU."""
    bits_per_byte: float | None = None
    """Of the best validation so far; at the end, of the run's result."""


def status_path(run_dir: Path) -> Path:
    """Return the path of the run's heartbeat."""
    return run_dir / CONTROL_DIR / STATUS_FILE


def write_heartbeat(run_dir: Path, heartbeat: Heartbeat) -> None:
    """Overwrite the run's heartbeat; nothing happens where it cannot be written."""
    values = dataclasses.asdict(dataclasses.replace(heartbeat, reason=heartbeat.reason[:MAX_TEXT]))
    content = dump({"format_version": FORMAT.version, "heartbeat": values}).ljust(STATUS_BYTES)
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    # A full disk, a folder that was removed: the run itself will tell.
    with contextlib.suppress(OSError):
        descriptor = os.open(status_path(run_dir), flags, 0o666)
        try:
            os.write(descriptor, content)
        finally:
            os.close(descriptor)


def read_heartbeat(run_dir: Path) -> Heartbeat | None:
    """Return the run's heartbeat; None if there is none, or none that is whole."""
    path = status_path(run_dir)
    for _ in range(READ_ATTEMPTS):
        try:
            return to_record(load(_read(path).rstrip(b" "), FORMAT)["heartbeat"], Heartbeat)
        except RecordError:  # damaged, or just being written
            time.sleep(ATTEMPT_SECONDS)
        except (OSError, ValueError):
            return None
    return None


T = typing.TypeVar("T")


def read_record(path: Path, record: type[T]) -> T | None:
    """Read a small JSON file as a dataclass; None if it is not there, damaged, or of another form."""
    try:
        return to_record(json.loads(_read(path)), record)
    except (OSError, ValueError, RecursionError):
        return None


def to_record(values: Any, record: type[T]) -> T | None:
    """Return a dataclass from JSON values; None if they do not fit. Fields of later versions are ignored."""
    if not isinstance(values, dict):
        return None
    hints = typing.get_type_hints(record)
    known = {name: values[name] for name in hints if name in values}
    try:
        return record(**known) if all(_fits(known[name], hints[name]) for name in known) else None
    except TypeError:  # a field is missing
        return None


def _read(path: Path) -> bytes:
    with open_regular(path, follow_link=False) as file:
        return file.read(MAX_FILE_BYTES)


def _fits(value: Any, hint: Any) -> bool:
    allowed = typing.get_args(hint) or (hint,)
    return type(value) in (*allowed, *((int,) if float in allowed else ()))


def resident_bytes() -> int | None:
    """Return the memory that this process occupies; None where the system does not tell (not Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * (os.sysconf("SC_PAGE_SIZE") if sys.platform != "win32" else 4096)
