"""The journal of a sweep: an append-only file of what has been begun and what it came to.

The state of a sweep is what its journal says and what the folders of its runs hold; no process has more of it
in its memory. A record has an "event":

    begin    what must not change while the sweep goes on: its config
    job      a run that will be made, and its values
    start    a process for a run, and the step that it goes on from
    end      a run and its result
    stop     the scheduler was asked to end

Each has "seconds": the time that the sweep has taken until then, without that between a stop and a start.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformerlm.storage.record_log import RecordLog
from transformerlm.sweep.job import Job

FORMAT_VERSION = 1
Outcome = Literal["complete", "diverged", "failed", "refused"]
"""How a run has ended. "refused": the config of the training does not take these values together."""


@dataclass(frozen=True)
class Result:
    """What a run has come to."""

    outcome: Outcome
    value: float | None = None
    """Its metric; None unless it is complete."""
    step: int = 0
    """Completed optimizer steps."""
    seconds: float = 0.0
    """Time that the run has taken, those of earlier processes included."""
    reason: str = ""
    """Why it is not complete."""


class Journal:
    """The journal of a sweep, read and appended to by its scheduler."""

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._log, self._now = RecordLog(path), now
        self.settings: Mapping[str, Any] | None = None
        """What the sweep was begun with; None: it has not."""
        self.jobs: dict[str, Job] = {}
        """Name -> a run that was begun, or that "tpe" has proposed."""
        self.results: dict[str, Result] = {}
        """Name of a run -> result, in the order of their ends."""
        self.durations: dict[str, float] = {}
        """Name of a run -> seconds from its last start to its end; missing where no process was needed."""
        self._started_at: dict[str, float] = {}
        self._starts: dict[str, list[int]] = {}
        """Name of a run -> the steps that it was started from, since the last stop."""
        self._seconds_before, self._opened = 0.0, now()
        for record in self._log.records:
            self._take(record)

    @property
    def path(self) -> Path:
        """The file."""
        return self._log.path

    @property
    def damaged_lines(self) -> list[int]:
        """Numbers of the lines that were passed over."""
        return self._log.damaged_lines

    @property
    def seconds(self) -> float:
        """Time that the sweep has taken, over all its processes."""
        return self._seconds_before + self._now() - self._opened

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Record what the sweep is begun with."""
        self._append("begin", format_version=FORMAT_VERSION, settings=settings)

    def add(self, job: Job) -> None:
        """Record a run that will be made, unless it is recorded."""
        if job.name not in self.jobs:
            self._append("job", job=dataclasses.asdict(job))

    def start(self, name: str, step: int) -> None:
        """Record that a process for a run is about to be started, which goes on from a step."""
        self._append("start", name=name, step=step)

    def end(self, name: str, result: Result) -> None:
        """Record the result of a run."""
        self._append("end", name=name, result=dataclasses.asdict(result))

    def stop(self) -> None:
        """Record that the scheduler was asked to end, and its runs with it."""
        self._append("stop")

    def is_begun(self, name: str) -> bool:
        """Return True if the run was ever started, or has ended without that."""
        return name in self._starts or name in self.results

    def attempts(self, name: str, step: int) -> int:
        """Return how often a run was started from this step or a later one, since the last stop."""
        return sum(begun >= step for begun in self._starts.get(name, ()))

    def _append(self, event: str, **facts: Any) -> None:
        record = {"event": event, "seconds": round(self.seconds, 3), **facts}
        self._log.append(record)
        self._take(record, is_new=True)

    def _take(self, record: Mapping[str, Any], *, is_new: bool = False) -> None:
        if not is_new:
            self._seconds_before = float(record["seconds"])
        match record["event"]:
            case "begin":
                self.settings = record["settings"]
            case "job":
                job = Job(**record["job"])
                self.jobs[job.name] = job
            case "start":
                self._starts.setdefault(record["name"], []).append(record["step"])
                self._started_at[record["name"]] = record["seconds"]
            case "end":
                self.results.setdefault(record["name"], Result(**record["result"]))
                if (begun := self._started_at.pop(record["name"], None)) is not None:
                    self.durations[record["name"]] = record["seconds"] - begun
            case "stop":
                self._starts = {name: [] for name in self._starts}
