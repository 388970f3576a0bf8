"""The series in a metrics.jsonl, read once or again and again while the file grows."""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transformerlm.logging import names

Numbers = NDArray[np.float64]

NAMES = frozenset(
    {
        names.LOSS,
        names.BITS_PER_BYTE,
        names.LR,
        names.GRAD_L2_NORM,
        names.VAL_LOSS,
        names.VAL_BITS_PER_BYTE,
        names.TOKENS,
        names.TOKENS_PER_SECOND,
        names.MFU,
        names.SPIKES,
        names.SKIPPED_STEPS,
    }
)
"""Metrics that a report shows."""
PREFIXES = tuple(names.of_corpus(name, "") for name in (names.TOKENS, names.VAL_BITS_PER_BYTE))
"""Beginnings of the metrics of single corpora of a mixture."""


DRAWN_PERCENT = "drawn_percent"
"""Of a mixture's corpus (`names.of_corpus`): the tokens drawn of it so far, in percent of those of all. It
follows from the metrics that a run has logged."""


@dataclass(frozen=True)
class Series:
    """Values of one metric, in the order of their records."""

    steps: Numbers
    """`[num_records]`, completed optimizer steps."""
    values: Numbers
    """`[num_records]`; may be NaN or infinite, as they were logged."""

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def finite(self) -> Series:
        """The records whose value is finite."""
        finite = np.isfinite(self.values)
        return Series(self.steps[finite], self.values[finite])

    @property
    def lowest(self) -> tuple[int, float] | None:
        """Step and value of the lowest finite value, the first of equal ones."""
        finite = self.finite
        if not len(finite):
            return None
        index = int(finite.values.argmin())
        return int(finite.steps[index]), float(finite.values[index])


EMPTY = Series(np.empty(0), np.empty(0))


@dataclass(frozen=True)
class Metrics:
    """All series of a run, and the tokens and the time that belong to its steps."""

    series: Mapping[str, Series]

    def __getitem__(self, name: str) -> Series:
        return self.series.get(name, EMPTY)

    @property
    def last_step(self) -> int:
        """The latest step that has a record; 0 without any."""
        return int(max((series.steps[-1] for series in self.series.values() if len(series)), default=0))

    def tokens_at(self, steps: Numbers) -> Numbers:
        """Return the tokens that were trained on until these steps, `[num_steps]`."""
        tokens = self[names.TOKENS]
        return _interpolated(steps, tokens.steps, tokens.values)

    def seconds_at(self, steps: Numbers) -> Numbers:
        """Return the seconds that the steps until these took, `[num_steps]`.

        They follow from the tokens and the throughput of the records: validating and saving do not count.
        """
        tokens, rate = self[names.TOKENS], self[names.TOKENS_PER_SECOND]
        if len(tokens) != len(rate):
            return np.full(len(steps), np.nan)
        new_tokens = np.diff(tokens.values, prepend=0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            seconds = new_tokens / rate.values
        seconds[~np.isfinite(seconds)] = 0.0
        return _interpolated(steps, tokens.steps, np.cumsum(seconds))


def _interpolated(steps: Numbers, known_steps: Numbers, values: Numbers) -> Numbers:
    """Interpolate linearly from (0, 0) on; NaN where nothing is known."""
    if not len(known_steps):
        return np.full(len(steps), np.nan)
    known_steps, values = np.concatenate([[0.0], known_steps]), np.concatenate([[0.0], values])
    return np.asarray(np.interp(steps, known_steps, values))


@dataclass
class MetricsReader:
    """Reader of a metrics.jsonl; `read` takes what was written since the last call."""

    path: Path
    offset: int = 0
    """Bytes that have been read: whole lines only."""
    end: float = math.inf
    """Bytes of the file after which nothing is read."""
    generation: int = 0
    """Number of times that the file was replaced, as a run does that goes back to an earlier step."""
    _inode: int = 0
    _columns: dict[str, tuple[array[float], array[float]]] = field(default_factory=dict)

    def read(self) -> Metrics:
        """Return all series so far. Lines that are damaged or not yet complete are left out."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                is_other = bool(self._inode) and status.st_ino != self._inode
                if is_other or status.st_size < self.offset:
                    self.offset, self.generation, self._columns = 0, self.generation + 1, {}
                self._inode = status.st_ino
                file.seek(self.offset)
                self._add_lines(file)
        except OSError:  # not written yet, or the folder is gone
            pass
        found = {name: _ascending(*columns) for name, columns in self._columns.items()}
        return Metrics({**found, **_drawn_percents(found)})

    def _add_lines(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            if not line.endswith(b"\n") or self.offset + len(line) > self.end:
                break
            self.offset += len(line)
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            step = number(record.get("step")) if isinstance(record, dict) else None
            if step is not None and math.isfinite(step):
                self._add(step, record)

    def _add(self, step: float, record: Mapping[str, Any]) -> None:
        for name, logged in record.items():
            value = number(logged) if name in NAMES or name.startswith(PREFIXES) else None
            if value is not None:
                steps, values = self._columns.setdefault(name, (array("d"), array("d")))
                steps.append(step)
                values.append(value)


def _drawn_percents(series: Mapping[str, Series]) -> dict[str, Series]:
    """Return DRAWN_PERCENT of each corpus of a mixture."""
    prefix = names.of_corpus(names.TOKENS, "")
    drawn = {name.removeprefix(prefix): own for name, own in series.items() if name.startswith(prefix)}
    if not drawn:
        return {}
    steps = next(iter(drawn.values())).steps
    total = np.sum([np.interp(steps, own.steps, own.values) for own in drawn.values()], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            names.of_corpus(DRAWN_PERCENT, corpus): Series(
                own.steps, 100 * own.values / np.interp(own.steps, steps, total)
            )
            for corpus, own in drawn.items()
        }


def _ascending(steps: array[float], values: array[float]) -> Series:
    """Return a series in the order of its steps, which a run keeps and an edited file may not."""
    series = Series(np.array(steps), np.array(values))
    if (np.diff(series.steps) >= 0).all():
        return series
    order = np.argsort(series.steps, kind="stable")
    return Series(series.steps[order], series.values[order])


def number(value: Any) -> float | None:
    """Return a logged value as a float ("NaN" and infinities are texts in JSON); None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def read_metrics(path: Path) -> Metrics:
    """Read a whole metrics.jsonl; no series if there is no such file."""
    return MetricsReader(path).read()
