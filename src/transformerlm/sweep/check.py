"""Checks of a sweep before anything runs: at the door, in the user's words."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformerlm.config import SweepConfig
from transformerlm.config.space import Axis, Choices, flat
from transformerlm.config.sweep import MAX_TRIALS
from transformerlm.errors import ConfigError, DataError, Key, Problem
from transformerlm.logging import check_backends
from transformerlm.schema import SchemaError, to_dict
from transformerlm.schema.values import show
from transformerlm.sweep.job import Job, Paths, job_config
from transformerlm.sweep.journal import Journal
from transformerlm.sweep.methods import num_trials

MAX_COMBINATIONS = 500
"""Combinations up to which all are tried at the door; a larger space is told as it is searched."""
MAY_CHANGE = ("generation", "logging", "wandb", "training.run_dir", "training.resume")
"""Tables and keys that a sweep may be continued with other values of."""
FIXED = ("method", "metric", "rungs", "halving_factor", "seed")
"""Keys of [sweep] that results depend on, besides the space."""
SPACE = "sweep.space."


def check(config: SweepConfig, paths: Paths) -> None:
    """Refuse a sweep that cannot come to a result.

    Raises:
        ConfigError: with every problem found.
    """
    problems: list[Problem] = []
    if not config.sweep.space:
        example = '"optimizer.lr" = { low = 1e-4, high = 1e-2, scale = "log" }'
        what = f"expected at least one key to search, such as {example}, got none"
        problems.append(Problem(Key("sweep", "space"), what))
    if not config.data.validation_fraction and config.data.validation_corpus is None:
        what = "expected a part of the text to compare trials on, got 0"
        problems.append(Problem(Key("data", "validation_fraction"), what))
    if config.sweep.method == "grid" and (number := num_trials(config.axes, config.sweep)) > MAX_TRIALS:
        what = f"expected at most {MAX_TRIALS:,} combinations, or a smaller max_trials, got {number:,.0f}"
        problems.append(Problem(Key("sweep", "space"), what))
    problems += _unusable_values(config, paths)
    if problems:
        raise ConfigError(problems)
    check_backends(config.logging)  # of every trial
    if config.sweep.needs_optuna:
        from transformerlm.sweep.tpe import require_optuna

        require_optuna()


def _unusable_values(config: SweepConfig, paths: Paths) -> Iterator[Problem]:
    """Yield the listed values that the training refuses in every combination, with the reason."""
    axes = config.axes
    samples = [_samples(axis) for axis in axes]
    combinations = list(itertools.islice(itertools.product(*samples), MAX_COMBINATIONS + 1))
    if not axes or len(combinations) > MAX_COMBINATIONS:
        return
    reasons: dict[str, Problem] = {}
    accepted: set[str] = set()
    for combination in combinations:
        values = dict(zip((axis.key for axis in axes), combination, strict=True))
        names = {_name(key, value) for key, value in values.items()}
        if reason := _refusal(config, values, paths):
            reasons = {**dict.fromkeys(names, reason), **reasons}
        else:
            accepted |= names
    unusable = [
        (axis.key, value, reasons[name])
        for axis, sample in zip(axes, samples, strict=True)
        for value in (sample if isinstance(axis, Choices) or not accepted else ())
        if (name := _name(axis.key, value)) not in accepted
    ]
    # Where nothing is accepted, a value may be refused only for what another key has in all combinations.
    own = [found for found in unusable if found[0] == ".".join(found[2].key)]
    for key, value, reason in own or unusable:
        what = f"{show(value)} is refused with all other values: {reason}"
        yield Problem(Key("sweep", "space", key), what)


def refusal(config: SweepConfig, values: Mapping[str, Any], paths: Paths) -> str:
    """Return why the training refuses these values together; "" if it takes them."""
    found = _refusal(config, values, paths)
    return str(found) if found else ""


def _refusal(config: SweepConfig, values: Mapping[str, Any], paths: Paths) -> Problem | None:
    section = config.sweep
    is_halving = section.method == "halving"
    part = float(section.halving_factor) ** (1 - section.rungs) if is_halving else 1.0
    try:
        job_config(config.training_config, Job(0, values, part=part), paths)
    except SchemaError as error:
        return error.problems[0]
    return None


def _samples(axis: Axis) -> Sequence[Any]:
    return axis.values if isinstance(axis, Choices) else axis.grid or (axis.at(0.0), axis.high)


def _name(key: str, value: Any) -> str:
    return json.dumps([key, value])


def begin_or_continue(config: SweepConfig, journal: Journal, runtime: Mapping[str, Any]) -> Mapping[str, Any]:
    """Record what a new sweep is begun with; of one that goes on, check that it is the same.

    Args:
        runtime: see `own_runtime`.

    Returns:
        That of the beginning: the runs of a sweep have the same number of threads, wherever it goes on.

    Raises:
        ConfigError: results of the sweep so far are of another config.
        DataError: the journal no longer says of which config they are.
    """
    settings = _settings(config)
    if journal.settings is None:
        if journal.jobs or journal.results:
            what = f"{journal.path}: its first record, the config that its results belong to, is not readable"
            raise DataError(f"{what}; take another [sweep].sweep_dir")
        journal.begin({"config": settings, "runtime": runtime})
        return runtime
    begun = journal.settings["config"]
    problems = [
        Problem(_key(key), _changed(begun.get(key), settings.get(key)))
        for key in sorted(begun.keys() | settings.keys())
        if begun.get(key) != settings.get(key)
    ]
    if problems:
        raise ConfigError(problems)
    return dict(journal.settings["runtime"])


def _key(name: str) -> Key:
    return Key("sweep", "space", name[len(SPACE) :]) if name.startswith(SPACE) else Key(*name.split(".", 1))


def _changed(begun: Any, now: Any) -> str:
    what = f"expected {show(begun)}, with which this sweep was begun, got {show(now)}"
    return f"{what}; take another [sweep].sweep_dir for another sweep"


def _settings(config: SweepConfig) -> dict[str, Any]:
    """Return the keys that results depend on, as JSON values: "table.key" -> value."""
    tables = to_dict(config.training_config)
    kept = {table: values for table, values in tables.items() if table not in MAY_CHANGE}
    found = {f"{table}.{key}": value for table, values in kept.items() for key, value in values.items()}
    found = {key: value for key, value in found.items() if key not in MAY_CHANGE}
    found |= {f"sweep.{key}": value for key, value in to_dict(config.sweep).items() if key in FIXED}
    found |= {f"{SPACE}{key}": given for key, given in flat(config.sweep.space).items()}
    if config.sweep.method == "halving":
        found["sweep.max_trials"] = config.sweep.max_trials
    return dict(json.loads(json.dumps(found)))
