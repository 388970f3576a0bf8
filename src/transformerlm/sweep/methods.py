"""Search methods: from the results so far to the runs that are to be made.

A method yields its jobs in a fixed order, as many as the results so far determine; those that have ended are
among them. What it yields depends on the sweep's seed and these results alone, never on the order in which
runs have ended, so that a sweep that was killed and resumed makes the same runs. (Of "tpe" this holds for
what its journal has recorded: see tpe.py.)
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from transformerlm.config import SweepConfig, SweepSection
from transformerlm.config.space import Axis
from transformerlm.config.sweep import DEFAULT_TRIALS
from transformerlm.sweep.job import Job
from transformerlm.sweep.journal import Journal, Result

MAX_REPEATED = 20_000
"""Draws in a row that have all been drawn before, after which a space counts as used up."""


class Method(Protocol):
    """A search method."""

    def jobs(self, journal: Journal) -> Iterator[Job]:
        """Yield the jobs that are determined so far, in order."""


def method_of(config: SweepConfig) -> Method:
    """Return the method that [sweep] names."""
    axes, section = config.axes, config.sweep
    if section.method == "tpe":
        from transformerlm.sweep.tpe import Tpe

        return Tpe(axes, section, num_trials(axes, section))
    if section.method == "halving":
        return Halving(axes, section)
    return Listed(axes, section)


class Listed:
    """Grid or random search: the trials are known from the beginning."""

    def __init__(self, axes: Sequence[Axis], section: SweepSection) -> None:
        self._draws = enumerate(listed_values(axes, section))
        self._drawn: list[Job] = []

    def jobs(self, journal: Journal) -> Iterator[Job]:
        """Yield a job for each trial."""
        yield from self._drawn
        for trial, values in self._draws:
            self._drawn.append(Job(trial, values))
            yield self._drawn[-1]


class Halving:
    """Successive halving: of each rung the best trials are trained again with a larger budget.

    Each rung is a run of its own from the first step, whose learning rate falls to its end within the budget
    of the rung: trials are compared as they would be used.

    Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
    2016; the rungs of Li et al., "Hyperband", 2018.
    """

    def __init__(self, axes: Sequence[Axis], section: SweepSection) -> None:
        self._section, self._trials = section, dict(enumerate(listed_values(axes, section)))

    def jobs(self, journal: Journal) -> Iterator[Job]:
        """Yield the jobs of the first rung, and of each other one once that before it has ended."""
        factor, last = self._section.halving_factor, self._section.rungs - 1
        trials: dict[int, Mapping[str, Any]] = {**self._trials}
        size = len(trials)
        for rung in range(self._section.rungs):
            part = float(factor) ** (rung - last)
            jobs = [Job(trial, values, rung, part) for trial, values in trials.items()]
            yield from jobs
            if any(job.name not in journal.results for job in jobs):
                return
            size = max(1, size // factor)
            best = sorted(best_of(jobs, journal.results)[:size], key=lambda job: job.trial)
            trials = {job.trial: job.values for job in best}


def best_of(jobs: Sequence[Job], results: Mapping[str, Result]) -> list[Job]:
    """Return the jobs that are complete, the best first; of equal ones the first trial."""
    found = [(results[job.name].value, job) for job in jobs if job.name in results]
    ranked = [(value, job.trial, job) for value, job in found if value is not None]
    return [job for _, _, job in sorted(ranked, key=lambda one: one[:2])]


def num_trials(axes: Sequence[Axis], section: SweepSection) -> float:
    """Return the largest number of trials of the search, or of its first rung; infinite if time limits it."""
    number = math.inf if section.max_trials is None else section.max_trials
    if section.max_trials is None and section.method != "grid" and section.max_time is None:
        number = DEFAULT_TRIALS
    if section.max_trials is None and section.method == "halving":
        number = DEFAULT_TRIALS  # its rungs need one
    return min(number, num_combinations(axes, section))


def num_combinations(axes: Sequence[Axis], section: SweepSection) -> float:
    """Return the number of different trials in the space; infinite for a range of numbers."""
    is_grid = section.method == "grid"
    sizes = [len(axis.grid) if is_grid else axis.size for axis in axes]
    return math.prod(math.inf if size is None else size for size in sizes)


def listed_values(axes: Sequence[Axis], section: SweepSection) -> Iterator[dict[str, Any]]:
    """Yield the values of each trial of a grid or of a random search, none twice."""
    draws = grid_values(axes) if section.method == "grid" else random_values(axes, section.seed)
    number = num_trials(axes, section)
    return itertools.islice(draws, None if number == math.inf else int(number))


def grid_values(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Yield every combination; the last key changes fastest."""
    for values in itertools.product(*(axis.grid for axis in axes)):
        yield dict(zip((axis.key for axis in axes), values, strict=True))


def random_values(axes: Sequence[Axis], seed: int) -> Iterator[dict[str, Any]]:
    """Yield draws that fill the space evenly, none twice, until the space is used up.

    An additive recurrence modulo 1, shifted at random: its first points, however many, leave smaller gaps
    than as many independent ones.

    Source: Roberts, "The Unreasonable Effectiveness of Quasirandom Sequences", 2018; Bousquet et al.,
    "Critical Hyper-Parameters: No Random, No Cry", 2017.
    """
    shifts = [random.Random(f"{seed} {axis.key}").random() for axis in axes]
    steps = [golden_ratio(len(axes)) ** -(index + 1) for index in range(len(axes))]
    seen: set[str] = set()
    repeated = 0
    for number in itertools.count():
        places = [math.fmod(shift + number * step, 1.0) for shift, step in zip(shifts, steps, strict=True)]
        values = {axis.key: axis.at(place) for axis, place in zip(axes, places, strict=True)}
        repeated = repeated + 1 if (plain := json.dumps(values)) in seen else 0
        if repeated > MAX_REPEATED:
            return
        if not repeated:
            seen.add(plain)
            yield values


def golden_ratio(dimensions: int) -> float:
    """Return the positive root of x^(d + 1) = x + 1: the golden ratio for d = 1."""
    ratio = 2.0
    for _ in range(64):
        ratio = (1.0 + ratio) ** (1.0 / (dimensions + 1))
    return ratio
