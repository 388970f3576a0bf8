"""Finals: the best trials again with other seeds, and the test of whether they differ.

Of many trials the best one is partly the luckiest one: the finalists are trained anew, with seeds that the
search has not used, and compared on the same held-out documents, as by `transformerlm-eval --eval.compare`.
The standard error of their difference has two parts: that of the documents (paired), and that of the seeds.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transformerlm.config import SweepSection
from transformerlm.evaluation.statistics import DEVIATIONS_95, DocumentScores, Estimate, difference
from transformerlm.sweep.job import Job, Paths
from transformerlm.sweep.journal import Journal


@dataclass(frozen=True)
class Finalist:
    """A trial, and the scores of its runs with several seeds."""

    trial: int
    bits_per_byte: Estimate
    """Mean over its seeds, and its standard error over them; NaN for one seed."""
    mean_scores: DocumentScores
    """Mean of the nats of each document over its seeds."""


@dataclass(frozen=True)
class Comparison:
    """The best finalist and another one."""

    best: int
    other: int
    bits_per_byte: Estimate
    """That of the other one minus that of the best one."""

    @property
    def verdict(self) -> str:
        """The result in words."""
        errors = self.bits_per_byte.num_standard_errors
        if math.isnan(errors):
            return "not distinguishable: from one document and one seed no standard error can be told"
        if errors < DEVIATIONS_95:
            return f"not distinguishable ({errors:.1f} standard errors)"
        return f"better by {errors:.1f} standard errors"


def final_jobs(ranked: Sequence[Job], section: SweepSection, journal: Journal) -> Iterator[Job]:
    """Yield the runs of the finalists, if there are two or more to compare, and the scoring of each one that
    is complete.

    Args:
        ranked: the trials, the best first.
    """
    finalists = ranked[: section.finalists]
    if len(finalists) < 2:
        return
    for seed in range(1, section.seeds + 1):
        for finalist in finalists:
            job = Job(finalist.trial, finalist.values, seed=seed)
            yield job
            if job.name in journal.results and journal.results[job.name].value is not None:
                yield dataclasses.replace(job, is_score=True)


def finalists_of(jobs: Iterable[Job], journal: Journal, paths: Paths) -> list[Finalist]:
    """Return the finalists with at least one run that was scored, the best first."""
    by_trial: dict[int, list[DocumentScores]] = {}
    for job in jobs:
        if job.is_score and journal.results[job.name].value is not None:
            by_trial.setdefault(job.trial, []).append(read_scores(paths.scores(job)))
    found = [finalist_of(trial, scores) for trial, scores in by_trial.items()]
    return sorted(found, key=lambda one: (one.bits_per_byte.value, one.trial))


def finalist_of(trial: int, scores: Sequence[DocumentScores]) -> Finalist:
    """Return a finalist from the scores of its runs."""
    first = scores[0]
    nats = np.mean([one.nats for one in scores], axis=0)
    mean = DocumentScores(nats, first.num_tokens, first.num_bytes, first.paths)
    values = np.array([one.bits_per_byte.value for one in scores])
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Finalist(trial, Estimate(float(values.mean()), float(error)), mean)


def compare(best: Finalist, other: Finalist) -> Comparison:
    """Return the difference of two finalists, with a standard error of documents and seeds together."""
    found = difference(other.mean_scores, best.mean_scores, same_tokens=False).bits_per_byte
    parts = [found.standard_error, best.bits_per_byte.standard_error, other.bits_per_byte.standard_error]
    known = [part for part in parts if not math.isnan(part)]
    error = math.hypot(*known) if known else math.nan
    return Comparison(best.trial, other.trial, Estimate(found.value, error))


def read_scores(path: Path) -> DocumentScores:
    """Read the [eval].documents_file of a model."""
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    return DocumentScores(
        nats=np.array([record["nats"] for record in records], np.float64),
        num_tokens=np.array([record["tokens"] for record in records], np.int64),
        num_bytes=np.array([record["bytes"] for record in records], np.int64),
        paths=[record["file"] for record in records],
    )
