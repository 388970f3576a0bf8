"""Cells of a long benchmark: results that are kept in a file as they are found, under a key of their inputs.

    {"cell": {"contestant": "xz", ...}, "result": {"bits_per_byte": 2.9}, "sha256": "9f86d0..."}

A line is appended when its cell is done and flushed to the disk. A line that a kill or a power failure has
cut is passed over, so that its cell is found again. Removing a line has the same effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformerlm.storage.record_log import RecordLog, plain_json

Result = Mapping[str, Any]
"""Values of JSON by their names."""


class Cells:
    """The cells in a file, which need not exist yet. Of several lines for a cell the last counts."""

    def __init__(self, path: Path) -> None:
        self._log = RecordLog(path)
        self._found: dict[str, Result] = {
            plain_json(record["cell"]): record["result"]
            for record in self._log.records
            if {"cell", "result"} <= record.keys()
        }

    def find(self, cell: Mapping[str, str]) -> Result | None:
        """Return the result that is kept for a cell, or None."""
        return self._found.get(plain_json(cell))

    def keep(self, cell: Mapping[str, str], result: Result) -> None:
        """Append a result; it is on the disk when this returns."""
        self._log.append({"cell": dict(cell), "result": dict(result)})
        self._found[plain_json(cell)] = result
