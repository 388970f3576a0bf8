"""The metrics.csv of a run: a row per record, a column per key, for spreadsheets and pandas.

A record with a key that has no column yet rewrites the file once, with a wider first line; every other one
is appended. Cells that a record does not have are empty.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from transformerlm.logging import names
from transformerlm.logging.base import NullLogger, Value
from transformerlm.logging.line_file import Backlog, LineFile
from transformerlm.logging.terminal import warn

FIRST_COLUMNS = (
    "step",
    *(names.LOSS, names.BITS_PER_BYTE, names.LR, names.GRAD_L2_NORM, names.TOKENS, names.TOKENS_PER_SECOND),
    *(names.MFU, names.DATA_WAIT_FRACTION, names.SPIKES, names.SKIPPED_STEPS, names.SECONDS_REMAINING),
    *(names.VAL_LOSS, names.VAL_PERPLEXITY, names.VAL_BITS_PER_BYTE),
)
"""Columns of a new file; others are added when the first record with them comes."""


class CsvFile(NullLogger):
    """Logger that appends to a CSV file; a row is completely written when `log` returns.

    Texts are left out: they are in samples.jsonl. If the disk is full, there is one warning, and rows wait in
    memory until there is space.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = LineFile(path)
        self._columns: list[str] | None = None
        self._backlog = Backlog(path, self._write)

    def log(self, values: Mapping[str, Value], step: int | None = None) -> None:
        """Append a row; floats are written exactly."""
        if names.PROMPT not in values:
            self._backlog.add({} | ({} if step is None else {"step": step}) | dict(values))

    def _write(self, row: Mapping[str, Value]) -> None:
        columns = self._columns or self._first_columns()
        wider = [*columns, *(key for key in row if key not in columns)]
        if wider != columns:
            self._file.rewrite(lambda old: _widened(old, wider))
        self._columns = wider
        self._file.append(_line([row.get(key, "") for key in wider]))

    def _first_columns(self) -> list[str]:
        """Return the columns of the file, which is made if it is missing."""
        try:
            with self.path.open("rb") as file:
                columns = _cells(file.readline())
        except FileNotFoundError:
            columns = []
        if not columns:
            columns = list(FIRST_COLUMNS)
            self._file.append(_line(columns))
        return columns

    def rewind(self, step: int) -> None:
        """Drop the rows of later steps, and an incomplete last row."""
        self.close()
        self._columns = None
        try:
            self._file.rewrite(lambda old: _rows_until(old, step))
        except OSError as error:
            what = f"the rows after step {step} stay in it ({error.strerror})"
            warn(f"{self.path}: could not be rewritten; {what}; training goes on")

    def close(self) -> None:
        """Close the file; `log` opens it again."""
        self._backlog.flush()
        self._file.close()


def _widened(lines: BinaryIO, columns: Sequence[str]) -> Iterator[bytes]:
    next(lines)
    yield _line(columns)
    for line in lines:
        cells = _cells(line)
        yield _line([*cells, *[""] * (len(columns) - len(cells))])


def _rows_until(lines: BinaryIO, last_step: int) -> Iterator[bytes]:
    first = next(lines, b"")
    columns, step = _cells(first), 0
    yield first
    for line in lines:
        row = dict(zip(columns, _cells(line), strict=False))
        if len(row) < len(columns) or not line.endswith(b"\n"):  # cut off by a kill or a power failure
            continue
        step = _number(row.get("step", ""), step)
        if step <= last_step:
            yield line


def _number(cell: str, otherwise: int) -> int:
    """Return the step in a cell, in which a person may have written anything."""
    try:
        return int(float(cell))
    except (ValueError, OverflowError):
        return otherwise


def _line(cells: Iterable[Value]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _cells(line: bytes) -> list[str]:
    # No cell has a line break: texts are left out, and keys are names.
    return next(csv.reader([line.decode(errors="replace")]), [])
