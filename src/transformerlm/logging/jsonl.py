"""Metrics as JSON lines: the format of a record, and the metrics.jsonl of a run.

A record is one flat object per line, with `step` first if there is one. JSON has no NaN and no infinities;
they are written as the strings "NaN", "Infinity" and "-Infinity", which every JSON parser reads and Python's
`float()` converts back.
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
    """Return a record as one line of ASCII, without the newline.

    Args:
        digits: significant decimal digits of a float; None: as many as are needed to read it back exactly.
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


MAX_PENDING = 100_000
"""Records, a few hundred bytes each, that are kept in memory while the disk is full."""


class MetricsFile(NullLogger):
    """Logger that appends to the metrics.jsonl of a run; a record is completely written when `log` returns.

    A resumed run calls `truncate_after` first; the file then looks as if the run had never stopped.
    If the disk is full, there is one warning and the file stays readable; the newest MAX_PENDING records are
    kept in memory until there is space.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._pending: deque[bytes] = deque(maxlen=MAX_PENDING)
        self._warned = False

    def log(self, values: Mapping[str, Value], step: int | None = None) -> None:
        """Append a record; floats are written exactly."""
        self._pending.append(to_line(values, step).encode() + b"\n")
        self._flush()

    def _flush(self) -> None:
        try:
            while self._pending:
                self._append(self._pending[0])
                self._pending.popleft()
        except OSError as error:
            if not self._warned:
                warn(f"{self.path}: metrics could not be written ({error.strerror}); training goes on")
            self._warned = True

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: one line is one write, and is in the file when the write returns.
            self._file = self.path.open("ab", buffering=0)
        start = self._file.seek(0, os.SEEK_END)
        if self._file.write(line) < len(line):
            self._file.truncate(start)
            raise OSError(errno.ENOSPC, "no space left on the device")

    def truncate_after(self, step: int) -> None:
        """Keep the records up to and including `step`; drop later ones and an incomplete last line.

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
        except ValueError:  # cut off by a kill or a power failure, possibly inside a character
            continue
        if not line.endswith(b"\n") or not isinstance(record, dict):
            continue
        step = record.get("step", step)
        if step <= last_step:
            yield line
