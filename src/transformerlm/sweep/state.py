"""Sweep: a config and its journal, and what follows from both: the runs to make, and which is the best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from transformerlm.config import SweepConfig
from transformerlm.sweep.finals import final_jobs
from transformerlm.sweep.job import Job, Paths
from transformerlm.sweep.journal import Journal
from transformerlm.sweep.methods import Method, method_of


@dataclass(frozen=True)
class Sweep:
    """A search over a config's keys, as far as it has come."""

    config: SweepConfig
    paths: Paths
    journal: Journal
    method: Method
    num_workers: int

    @classmethod
    def of(cls, config: SweepConfig, paths: Paths, num_workers: int = 1) -> Sweep:
        """Return the sweep in a folder, which need not exist yet."""
        return cls(config, paths, Journal(paths.journal), method_of(config), num_workers)

    def jobs(self) -> Iterator[Job]:
        """Yield the jobs that are determined so far, in order: the search, and then the finalists."""
        search = []
        for job in self._search():
            search.append(job)
            yield job
        if all(job.name in self.journal.results for job in search):
            yield from final_jobs(self._ranked(search), self.config.sweep, self.journal)

    def begun(self) -> list[Job]:
        """Return the jobs that were started or have ended: first the search, by rungs and trials."""
        found = [job for name, job in self.journal.jobs.items() if self.journal.is_begun(name)]
        return sorted(found, key=lambda job: (job.seed, job.rung or 0, job.trial, job.is_score))

    def ranked(self) -> list[Job]:
        """Return for each trial its complete run with the largest budget; largest first, then best."""
        return self._ranked(self.begun())

    def _search(self) -> Iterator[Job]:
        """Yield the jobs of the method for which there is time."""
        for job in self.method.jobs(self.journal):
            if not self.journal.is_begun(job.name) and not self._has_time_for(job):
                return
            yield job

    def _ranked(self, jobs: list[Job]) -> list[Job]:
        results = self.journal.results
        ranked = [
            (-(job.rung or 0), value, job.trial, job)
            for job in jobs
            if job.is_search and job.name in results and (value := results[job.name].value) is not None
        ]
        best: dict[int, Job] = {}
        for *_, job in sorted(ranked, key=lambda one: one[:3]):
            best.setdefault(job.trial, job)
        return list(best.values())

    def _has_time_for(self, job: Job) -> bool:
        """Return True if the trial, and then the finalists, would end within [sweep].max_time."""
        limit, pace = self.config.sweep.max_seconds, self.seconds_per_trial()
        if limit is None or pace is None:
            return True
        section = self.config.sweep
        finals = section.finalists * section.seeds if section.finalists > 1 else 0
        return self.journal.seconds + pace * (job.part + math.ceil(finals / self.num_workers)) <= limit

    def seconds_per_trial(self) -> float | None:
        """Return the median time of complete trials, scaled to the whole budget; None before there is one."""
        journal = self.journal
        found = [
            seconds / journal.jobs[name].part
            for name, seconds in journal.durations.items()
            if journal.jobs[name].is_search and journal.results[name].value is not None
        ]
        return median(found) if found else None
