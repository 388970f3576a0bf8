"""SweepResult: what a sweep has come to so far, from its journal and the scores of its finalists."""

from __future__ import annotations

from dataclasses import dataclass

from transformerlm.config import TrainConfig
from transformerlm.sweep.finals import Comparison, Finalist, compare, finalists_of
from transformerlm.sweep.job import Job, with_values
from transformerlm.sweep.state import Sweep


@dataclass(frozen=True)
class SweepResult:
    """What a sweep has come to."""

    sweep: Sweep
    finalists: list[Finalist]
    """The best first; empty if there was nothing to compare."""
    comparisons: list[Comparison]
    """The best finalist and each other one."""
    stop_signal: int | None = None
    """The signal that stopped the sweep, which the same call continues; None if it is complete."""

    @property
    def best(self) -> Job | None:
        """The best trial: by its finals, or else by the search; None if no trial is complete."""
        ranked = self.sweep.ranked()
        if self.finalists:
            return next(job for job in ranked if job.trial == self.finalists[0].trial)
        return ranked[0] if ranked else None

    @property
    def exit_status(self) -> int:
        """0; 1 if no trial is complete; 128 + the number of the signal that stopped the sweep."""
        if self.stop_signal:
            return 128 + self.stop_signal
        return 0 if self.best else 1


def result_of(state: Sweep, stop_signal: int | None = None) -> SweepResult:
    """Return what a sweep has come to so far."""
    seeds, results = state.config.sweep.seeds, state.journal.results
    ended = [job for job in state.begun() if job.name in results and job.seed <= seeds]
    finalists = finalists_of(ended, state.journal, state.paths)
    comparisons = [compare(finalists[0], other) for other in finalists[1:]]
    return SweepResult(state, finalists, comparisons, stop_signal)


def best_config(result: SweepResult) -> TrainConfig | None:
    """Return the config of the best trial, with the whole budget and the folder of [training]; None without
    one."""
    if (best := result.best) is None:
        return None
    return with_values(result.sweep.config.training_config, best.values, result.sweep.paths)
