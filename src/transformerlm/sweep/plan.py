"""An estimate of a sweep before it is started, or of what is left of it: runs, time, disk."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence

from transformerlm.config import SweepConfig
from transformerlm.progress import Reporter, counted, duration
from transformerlm.sweep.check import check, refusal
from transformerlm.sweep.job import Job, Paths, job_config
from transformerlm.sweep.methods import num_combinations, num_trials
from transformerlm.sweep.run import paths_of
from transformerlm.sweep.state import Sweep
from transformerlm.sweep.workers import slots_of

SECONDS_OUTSIDE = 3.0
"""Time of a process beside its run: its start, and the reading of its files."""


def plan_lines(config: SweepConfig, reporter: Reporter) -> Iterator[str]:
    """Yield the estimate as lines of text.

    Raises:
        ConfigError: the sweep cannot come to a result.
    """
    paths = paths_of(config)
    check(config, paths)
    slots = slots_of(config.runtime, config.sweep.workers_per_device)
    state = Sweep.of(config, paths, len(slots))
    parts = parts_left(state)
    yield _line("method", _method(config))
    yield _line(
        "workers", f"{len(slots)} at a time: {', '.join(dict.fromkeys(slot.device for slot in slots))}"
    )
    ended = sum(job.is_search for job in state.begun())
    begun = f"{counted(ended, 'run')} of the search" if ended else "nothing yet"
    yield _line("begun", begun)
    if config.sweep.max_seconds is not None:
        left = max(0.0, config.sweep.max_seconds - state.journal.seconds)
        yield _line("time", f"{duration(left)} left of {config.sweep.max_time}")
        if not parts:
            return
    pace, source = seconds_per_trial(state, paths, reporter)
    yield _line("trial", f"{duration(pace)} with the whole budget, {source}")
    trials = "1 whole trial" if sum(parts) == 1 else f"{sum(parts):.3g} whole trials"
    yield _line("left", f"{counted(len(parts), 'run')}, as much work as {trials}")
    yield _line("in all", duration(makespan([pace * part for part in parts], len(slots))))


def _line(topic: str, text: str) -> str:
    return f"{topic:<10}{text}"


def _method(config: SweepConfig) -> str:
    section, axes = config.sweep, config.axes
    number, every = num_trials(axes, section), num_combinations(axes, section)
    trials = "as many trials as there is time for" if math.isinf(number) else f"{number:.0f} trials"
    of = "" if math.isinf(every) or every == number else f" of {every:.0f}"
    rungs = f" in {section.rungs} rungs" if section.method == "halving" else ""
    return f"{section.method}, {trials}{of}{rungs}"


def parts_left(state: Sweep) -> list[float]:
    """Return the part of a whole trial's budget that each run takes that is still to be made, in order.

    Empty if time is the only limit.
    """
    section, results = state.config.sweep, state.journal.results
    number = num_trials(state.config.axes, section)
    if math.isinf(number):
        return []
    if section.method == "halving":
        sizes = [max(1, int(number) // section.halving_factor**rung) for rung in range(section.rungs)]
        parts = [float(section.halving_factor) ** (rung + 1 - section.rungs) for rung in range(section.rungs)]
    else:
        sizes, parts = [int(number)], [1.0]
    every = [part for size, part in zip(sizes, parts, strict=True) for _ in range(size)]
    if section.finalists > 1:
        every += [1.0] * (min(section.finalists, int(number)) * section.seeds)
    # A run that has ended takes its place from the front: the order of rungs is that of the list.
    ended = sum(not state.journal.jobs[name].is_score for name in results)
    return every[ended:]


def seconds_per_trial(state: Sweep, paths: Paths, reporter: Reporter) -> tuple[float, str]:
    """Return the time of a trial with the whole budget, and how it is known."""
    if (measured := state.seconds_per_trial()) is not None:
        return measured, "the median of those that have ended"
    base = state.config.training_config
    if base.training.max_seconds is not None:
        return base.training.max_seconds + SECONDS_OUTSIDE, "by [training].max_time"
    from transformerlm.training import plan_run

    job = _first_accepted(state, paths)
    config = job_config(base, Job(job.trial, job.values), paths)
    plan = plan_run(config, reporter, owns_process=True)
    return plan.seconds + SECONDS_OUTSIDE, f"measured with the values of trial {job.trial:04}"


def _first_accepted(state: Sweep, paths: Paths) -> Job:
    """Return a trial that the training does not refuse, for "tpe" by a random draw."""
    from transformerlm.sweep.methods import grid_values, random_values

    axes, section = state.config.axes, state.config.sweep
    draws = grid_values(axes) if section.method == "grid" else random_values(axes, section.seed)
    trials = (Job(trial, values) for trial, values in enumerate(itertools.islice(draws, 1000)))
    accepted = (job for job in trials if not refusal(state.config, job.values, paths))
    return next(accepted, Job(0, {}))


def makespan(seconds: Sequence[float], num_workers: int) -> float:
    """Return the time until the last run ends, where each is begun by the worker that is free first."""
    free = [0.0] * num_workers
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)
