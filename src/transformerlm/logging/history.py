"""The history of a run, `history.jsonl` in its folder: starts, roll-backs, errors and ends, one per line.

metrics.jsonl looks as if the run had never stopped; this file tells what happened. A JSON object has "event",
"step" (completed optimizer steps) and "time" (UTC), and whatever belongs to the event. Lines are only ever
added. The file informs a reader and nothing depends on it: where it cannot be written, the run goes on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformerlm.logging.base import NullLogger, Value

START, ROLL_BACK, STOP, END, ERROR = "start", "roll back", "stop", "end", "error"
FILE_NAME = "history.jsonl"


class RunHistory(NullLogger):
    """Writer of a run's history; as a logger, it records that the run was rewound."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / FILE_NAME
        self.newest_step = 0
        """Latest step that was logged."""

    def add(self, event: str, step: int, **facts: Any) -> None:
        """Append a record; `facts` are JSON values."""
        record = {"event": event, "step": step, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        line = json.dumps({**record, **facts}).encode() + b"\n"
        with contextlib.suppress(OSError), self.path.open("ab", buffering=0) as file:
            start = file.tell()
            if file.write(line) < len(line):  # a full disk
                file.truncate(start)

    def log(self, values: Mapping[str, Value], step: int | None = None) -> None:
        """Remember the step."""
        self.newest_step = self.newest_step if step is None else step

    def rewind(self, step: int) -> None:
        """Record a roll-back, and the step that it came from."""
        self.add(ROLL_BACK, step, from_step=max(step, self.newest_step))
        self.newest_step = step


def read_history(run_dir: Path) -> list[dict[str, Any]]:
    """Return the records of a run's history, oldest first; lines that are damaged are left out."""
    try:
        lines = (run_dir / FILE_NAME).read_bytes().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):  # cut off by a kill
            found.append(json.loads(line))
    return [record for record in found if isinstance(record, dict) and _is_step(record.get("step"))]


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
