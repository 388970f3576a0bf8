"""Cells of a long benchmark: results that are kept in a file as they are found, under a key of their inputs.

    {"cell": {"contestant": "xz", ...}, "result": {"bits_per_byte": 2.9}, "sha256": "9f86d0..."}

A line is appended when its cell is done and flushed to the disk. A line that a kill or a power failure has
cut is passed over, so that its cell is found again. Removing a line has the same effect.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]
"""Values of JSON by their names."""


class Cells:
    """The cells in a file, which need not exist yet. Of several lines for a cell the last counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found = dict(_read(path))

    def find(self, cell: Mapping[str, str]) -> Result | None:
        """Return the result that is kept for a cell, or None."""
        return self._found.get(_plain(cell))

    def keep(self, cell: Mapping[str, str], result: Result) -> None:
        """Append a result; it is on the disk when this returns."""
        line = _plain({**_content(cell, result), "sha256": _checksum(cell, result)}).encode() + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            if file.tell() and not _ends_line(file.fileno(), file.tell()):
                line = b"\n" + line  # after a line that was cut
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._found[_plain(cell)] = result


def _read(path: Path) -> Iterator[tuple[str, Result]]:
    """Yield the complete lines."""
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
            cell, result = record["cell"], record["result"]
            if record["sha256"] == _checksum(cell, result):
                yield _plain(cell), result
        except (ValueError, LookupError, TypeError):
            continue


def _ends_line(descriptor: int, size: int) -> bool:
    return os.pread(descriptor, 1, size - 1) == b"\n"


def _content(cell: Mapping[str, str], result: Result) -> dict[str, Any]:
    return {"cell": dict(cell), "result": dict(result)}


def _checksum(cell: Mapping[str, str], result: Result) -> str:
    return hashlib.sha256(_plain(_content(cell, result)).encode()).hexdigest()


def _plain(value: Mapping[str, Any]) -> str:
    """Return JSON that does not depend on the order of the members."""
    return json.dumps(value, sort_keys=True)
