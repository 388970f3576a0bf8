"""[sweep]: how to search, for how long, and what to do with the best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from transformerlm.config.training import IsTime, seconds_of
from transformerlm.errors import Key, Problem
from transformerlm.schema import FilePath, NonNegativeInt, PositiveInt, Section

DEFAULT_TRIALS = 20
"""Trials of a search that is limited by nothing else."""
MIN_FACTOR = 2
MAX_TRIALS = 100_000
"""Largest number of trials: each is a process, and a folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepSection(Section):
    """[sweep]: a search over keys of the config; each trial is a run of its own."""

    sweep_dir: FilePath = "runs/sweeps/{corpus}"
    """Folder of the sweep: its journal, the folders of its runs, best.toml and report.html."""
    method: Literal["grid", "random", "halving", "tpe"] = "random"
    """"grid": every combination. "random": draws that fill the space evenly. "halving": many such trials with
    a small part of the budget, and the best again with more. "tpe": optuna's sampler, which learns from the
    trials before (needs transformerlm[sweep])."""
    metric: Literal["val_bits_per_byte", "val_loss"] = "val_bits_per_byte"
    """Result of a trial: its best validation; lower is better. The loss compares only trials of the same
    vocabulary."""
    max_trials: PositiveInt | None = None
    """Budget: number of trials; with "halving", those of the first rung. None: every combination of a grid;
    otherwise 20, or with max_time as many as there is time for."""
    max_time: Annotated[str, IsTime()] | None = None
    """Budget: wall-clock time of the whole sweep, such as "2h", the finalists included. No trial is begun
    that would end too late by the pace of those before. Time between a stop and a resumption does not
    count."""
    workers_per_device: PositiveInt = 1
    """Trials at the same time on each GPU; where there is none, on the CPU, whose cores they share."""
    rungs: PositiveInt = 3
    """Of "halving": number of budgets. The last one is that of [training]."""
    halving_factor: PositiveInt = 3
    """Of "halving": from rung to rung one trial in so many goes on, with a budget so many times as large."""
    finalists: NonNegativeInt = 2
    """Best trials that are run again with other seeds and compared. 0 or 1: the best trial wins as it is."""
    seeds: PositiveInt = 3
    """Runs of each finalist, with [runtime].seed + 1, + 2, ..."""
    max_attempts: PositiveInt = 5
    """Starts of a run that is killed again and again, by lack of memory for instance, and saves nothing in
    between, after which it counts as failed."""
    seed: NonNegativeInt = 0
    """Seed of what is drawn."""
    optuna_journal: bool = False
    """Write optuna.jsonl for optuna-dashboard too (needs transformerlm[sweep]); "tpe" always does."""
    space: dict[str, Any] = field(default_factory=dict)
    """What to search: keys, each with a list of values or with a range, such as
    "optimizer.lr" = { low = 1e-4, high = 1e-2, scale = "log" }."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield more trials than can ever be made, and a factor that keeps every trial."""
        if self.max_trials is not None and self.max_trials > MAX_TRIALS:
            yield Problem(Key("max_trials"), f"expected at most {MAX_TRIALS:,}, got {self.max_trials:,}")
        if self.method == "halving" and self.halving_factor < MIN_FACTOR:
            what = f"expected a whole number of at least {MIN_FACTOR}, got {self.halving_factor}"
            yield Problem(Key("halving_factor"), what)

    @property
    def max_seconds(self) -> float | None:
        """`max_time` in seconds."""
        return None if self.max_time is None else seconds_of(self.max_time)

    @property
    def needs_optuna(self) -> bool:
        """True if the package optuna is used."""
        return self.method == "tpe" or self.optuna_journal
