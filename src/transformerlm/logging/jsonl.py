"""Metrics as JSON lines: the format of a record, and the metrics.jsonl of a run.

A record is one flat object per line, with `step` first if there is one. JSON has no NaN and no infinities;
they are written as the strings "NaN", "Infinity" and "-Infinity", which every JSON parser reads and Python's
`float()` converts back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from transformerlm.logging.base import NullLogger, Value
from transformerlm.logging.line_file import Backlog, LineFile


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


class MetricsFile(NullLogger):
    """Logger that appends to the metrics.jsonl of a run; a record is completely written when `log` returns.

    A resumed run calls `truncate_after` first; the file then looks as if the run had never stopped.
    If the disk is full, there is one warning, the file stays readable, and records wait in memory until there
    is space.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = LineFile(path)
        self._backlog = Backlog(path, self._file.append)

    def log(self, values: Mapping[str, Value], step: int | None = None) -> None:
        """Append a record; floats are written exactly."""
        self._backlog.add(to_line(values, step).encode() + b"\n")

    def truncate_after(self, step: int) -> None:
        """Keep the records up to and including `step`; drop later ones and an incomplete last line.

        A record without a step belongs to the record before it.
        """
        self.close()
        self._file.rewrite(lambda old: _records_until(old, step))

    def rewind(self, step: int) -> None:
        """Drop the records after `step`."""
        self.truncate_after(step)

    def close(self) -> None:
        """Close the file; `log` opens it again."""
        self._backlog.flush()
        self._file.close()


def _records_until(lines: BinaryIO, last_step: int) -> Iterator[bytes]:
    step = 0
    for line, record in whole_records(lines):
        step = record.get("step", step)
        if step <= last_step:
            yield line


def whole_records(lines: Iterable[bytes]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield each line of a file with its record, without those that a kill or a power failure has cut off."""
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # possibly cut inside a character
            continue
        if line.endswith(b"\n") and isinstance(record, dict):
            yield line, record
