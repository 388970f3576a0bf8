"""Metrics as JSON lines: the form of a record, and a run's metrics.jsonl.

Not a general JSONL reader. A record is one flat object a line, `step` first where there is one.
JSON knows no NaN and no infinities; they are written as the strings "NaN", "Infinity" and
"-Infinity", which every JSON parser reads and Python's `float()` turns back into the number.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from transformerlm.logging.base import NullLogger, Value
from transformerlm.logging.terminal import warn
from transformerlm.storage.files import committed_file


def to_line(values: Mapping[str, Value], step: int | None = None, digits: int | None = None) -> str:
    """A record as one line of pure ASCII, without the line's end.

    Args:
        digits: significant decimal digits of a float; None: all that it takes to read it back exactly.
    """
    record: dict[str, Value] = {} if step is None else {"step": step}
    record.update((key, _plain(value, digits)) for key, value in values.items())
    return json.dumps(record, allow_nan=False)


def _plain(value: Value, digits: int | None) -> Value:
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if digits is None else float(f"{value:.{digits}g}")


WAITING = 100_000
"""Records, a few hundred bytes each, that are kept for a disk that takes no more."""


class MetricsFile(NullLogger):
    """A run's metrics.jsonl: each record is in the file, whole, when `log` returns.

    A resumed run calls `truncate_after` first, and the file then reads as if it had never stopped.
    Where the disk is full there is one warning, and the file stays readable; records wait in memory, the
    newest WAITING of them, until there is room.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._waiting: deque[bytes] = deque(maxlen=WAITING)
        self._warned = False

    def log(self, values: Mapping[str, Value], step: int | None = None) -> None:
        """Append a record; floats are written exactly."""
        self._waiting.append(to_line(values, step).encode() + b"\n")
        self._flush()

    def _flush(self) -> None:
        try:
            while self._waiting:
                self._append(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            if not self._warned:
                warn(f"{self.path}: metrics could not be written ({error.strerror}); training goes on")
            self._warned = True

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: one line is one write, and is in the file when that returns.
            self._file = self.path.open("ab", buffering=0)
        start = self._file.seek(0, os.SEEK_END)
        if self._file.write(line) < len(line):
            self._file.truncate(start)
            raise OSError(errno.ENOSPC, "no space left on the device")

    def truncate_after(self, step: int) -> None:
        """Keep the records up to and including `step`; drop later ones and a torn last line.

        A record without a step belongs to the record before it.
        """
        self.close()
        if not self.path.exists():
            return
        with self.path.open("rb") as old, committed_file(self.path) as new:
            new.writelines(_records_until(old, step))

    def rewind(self, step: int) -> None:
        """Drop the records after `step`."""
        self.truncate_after(step)

    def close(self) -> None:
        """Close the file; `log` opens it again."""
        self._flush()
        if self._file is not None:
            self._file.close()
        self._file = None


def _records_until(lines: BinaryIO, last_step: int) -> Iterator[bytes]:
    step = 0
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # torn by a kill or a power failure, perhaps in the middle of a character
            continue
        if not line.endswith(b"\n") or not isinstance(record, dict):
            continue
        step = record.get("step", step)
        if step <= last_step:
            yield line
