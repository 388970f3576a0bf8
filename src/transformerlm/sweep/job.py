"""Job: one run of a sweep, and the config that it is trained with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transformerlm.config import TrainConfig, TrainLoggingConfig
from transformerlm.config.space import nested
from transformerlm.schema import from_dict, merge, to_dict
from transformerlm.storage.record_log import checksum

RUNS = "trials"
"""Folder of the runs inside that of the sweep."""
TOKEN_TABLES = ("data", "tokenizer")
"""Tables that token files are made from."""


@dataclass(frozen=True)
class Job:
    """A run: a trial, a trial of one rung, or a finalist with another seed."""

    trial: int
    values: Mapping[str, Any]
    """Key with its table -> value, such as {"optimizer.lr": 0.001}."""
    rung: int | None = None
    """None: the method has no rungs."""
    part: float = 1.0
    """Part of the budget of [training]."""
    seed: int = 0
    """Added to [runtime].seed; above 0 for a finalist."""
    is_score: bool = False
    """True for scoring the documents of a run that is complete, False for training it."""

    @property
    def name(self) -> str:
        """Name in the journal: that of the run, and whether it is scored."""
        return f"{self.run_name}-scores" if self.is_score else self.run_name

    @property
    def run_name(self) -> str:
        """Name of the run's folder, such as "0007", "0007-rung-1" or "0007-seed-2"."""
        rung = "" if self.rung is None or self.seed else f"-rung-{self.rung}"
        return f"{self.trial:04}{rung}" + (f"-seed-{self.seed}" if self.seed else "")

    @property
    def is_search(self) -> bool:
        """True for a run of the search, False for one of a finalist."""
        return self.seed == 0


class Paths(NamedTuple):
    """The files of a sweep."""

    sweep_dir: Path

    @property
    def journal(self) -> Path:
        """Everything that has happened: the state of the sweep."""
        return self.sweep_dir / "sweep.jsonl"

    @property
    def lock(self) -> Path:
        """Folder whose lock the scheduler holds. It is hidden: a locked folder would be taken for a run."""
        return self.sweep_dir / ".scheduler"

    @property
    def optuna(self) -> Path:
        """The results as a study of optuna."""
        return self.sweep_dir / "optuna.jsonl"

    @property
    def best(self) -> Path:
        """The config of the best trial."""
        return self.sweep_dir / "best.toml"

    @property
    def report(self) -> Path:
        """The page."""
        return self.sweep_dir / "report.html"

    def run(self, job: Job) -> Path:
        """Return the folder of a run."""
        return self.sweep_dir / RUNS / job.run_name

    def scores(self, job: Job) -> Path:
        """Return the file with the loss of each document under the model of a run."""
        return self.sweep_dir / RUNS / f"{job.run_name}-scores.jsonl"

    def beside(self, job: Job, suffix: str) -> Path:
        """Return a file beside the folder of the run: its config, its messages, its scores."""
        return self.sweep_dir / RUNS / f"{job.name}{suffix}"


def with_values(base: TrainConfig, values: Mapping[str, Any], paths: Paths) -> TrainConfig:
    """Return the config of a trial with the whole budget.

    Token files are shared by all trials. Trials that differ in [data] or [tokenizer] have others, in a folder
    that is named after these values.

    Raises:
        SchemaError: the values cannot be used together.
    """
    config = from_dict(TrainConfig, merge(to_dict(base), nested(values)), source="")
    own = {key: value for key, value in values.items() if key.partition(".")[0] in TOKEN_TABLES}
    own = {key: value for key, value in own.items() if not key.endswith("num_workers")}
    if not own or {"data.token_dir", "tokenizer.tokenizer_dir"} & own.keys():
        return config
    folder = paths.sweep_dir / "data" / checksum(own)[:12]
    tokenizer, data = config.tokenizer, dataclasses.replace(config.data, token_dir=str(folder))
    if any(key.startswith("tokenizer.") for key in own):
        tokenizer = dataclasses.replace(tokenizer, tokenizer_dir=str(folder / "tokenizer"))
    return dataclasses.replace(config, data=data, tokenizer=tokenizer)


def job_config(
    base: TrainConfig, job: Job, paths: Paths, own_runtime: Mapping[str, Any] | None = None
) -> TrainConfig:
    """Return the config that a job is trained with, by transformerlm-train.

    Args:
        own_runtime: keys of [runtime] where the config leaves the number of threads open.

    Raises:
        SchemaError: the values of the trial cannot be used together.
    """
    config = with_budget(with_values(base, job.values, paths), job.part)
    runtime = dataclasses.replace(config.runtime, seed=config.runtime.seed + job.seed)
    if runtime.num_threads == "auto":
        runtime = dataclasses.replace(runtime, **(own_runtime or {}))
    # Trials are compared by their networks: a memory of n-grams would take their time, and hide differences.
    run_dir = str(paths.run(job))
    training = dataclasses.replace(config.training, run_dir=run_dir, resume="auto", ngram_memory=False)
    logging = _job_logging(config.logging, f"{paths.sweep_dir.name}-{job.run_name}")
    return dataclasses.replace(config, runtime=runtime, training=training, logging=logging)


def _job_logging(logging: TrainLoggingConfig, run_name: str) -> TrainLoggingConfig:
    """Return [logging] of a job: no console, no page, and no command at the end of each run."""
    backends = [name for name in logging.backends if name != "console"]
    changed = {"backend": backends, "run_name": run_name, "on_end": "", "report": False}
    return from_dict(TrainLoggingConfig, {**to_dict(logging), **changed}, source="")


def with_budget(config: TrainConfig, part: float) -> TrainConfig:
    """Return the config with a part of its budget, and a warm-up and a schedule shorter by as much."""
    if part == 1.0:
        return config
    training, schedule = config.training, config.schedule
    changed: dict[str, Any]
    if training.max_time is not None:
        changed = {"max_time": f"{max(1.0, (training.max_seconds or 0.0) * part):g}s"}
    elif training.max_tokens is not None:
        changed = {"max_tokens": _scaled(training.max_tokens, part)}
    elif training.max_steps is None and isinstance(training.max_passes, float):
        changed = {"max_passes": training.max_passes * part}
    else:
        changed = {"max_steps": _scaled(training.max_steps or 1000, part)}
    shorter = {
        name: _scaled(value, part)
        for name in ("warmup_steps", "cosine_steps")
        if isinstance(value := getattr(schedule, name), int) and value
    }
    tables = merge(to_dict(config), {"training": changed, "schedule": shorter})
    return from_dict(TrainConfig, tables, source="")


def _scaled(number: int, part: float) -> int:
    return max(1, round(number * part))
