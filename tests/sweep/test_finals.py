"""The comparison of finalists, against simulated runs whose truth is known."""

import json
import math

import numpy as np
import pytest

from transformerlm.config import SweepConfig
from transformerlm.evaluation.statistics import DocumentScores, Estimate
from transformerlm.schema import from_dict
from transformerlm.sweep.finals import Comparison, compare, finalist_of
from transformerlm.sweep.job import Job, Paths
from transformerlm.sweep.journal import Journal, Result
from transformerlm.sweep.result import result_of
from transformerlm.sweep.state import Sweep


def runs(rng, mean: float, seeds: int, documents: int = 60, of_seeds: float = 0.02, hardness=None):
    """Scores of runs whose loss differs by documents, by seeds and by chance, in nats per token."""
    found = []
    for _ in range(seeds):
        loss = mean + hardness + rng.normal(0, of_seeds) + rng.normal(0, 0.05, documents)
        tokens = np.full(documents, 50)
        found.append(DocumentScores(loss * tokens, tokens, tokens * 3, ["a"] * documents))
    return found


@pytest.mark.parametrize(("difference", "low", "high"), [(0.0, 0.0, 0.12), (0.2, 0.98, 1.0)])
def test_equal_trials_are_seldom_told_apart_and_different_ones_mostly(difference, low, high):
    """Of the seeds alone the standard error is known badly: with 8 each the test is nearly exact."""
    rng, told = np.random.default_rng(0), 0
    for _ in range(300):
        hardness = rng.normal(0, 0.5, 60)  # that of the documents, for both
        first, second = (
            finalist_of(trial, runs(rng, 3 + trial * difference, 8, hardness=hardness)) for trial in (0, 1)
        )
        best, other = sorted([first, second], key=lambda one: one.bits_per_byte.value)
        told += compare(best, other).verdict.startswith("better")
    assert low <= told / 300 <= high


def test_the_spread_of_seeds_counts_not_only_that_of_documents():
    rng, hardness = np.random.default_rng(1), np.zeros(60)
    quiet = [finalist_of(t, runs(rng, 3, 3, of_seeds=0.0, hardness=hardness)) for t in (0, 1)]
    noisy = [finalist_of(t, runs(rng, 3, 3, of_seeds=0.5, hardness=hardness)) for t in (0, 1)]
    errors = [compare(*pair).bits_per_byte.standard_error for pair in (quiet, noisy)]
    assert errors[1] > 5 * errors[0]


def test_verdicts():
    assert Comparison(1, 2, Estimate(0.021, 0.01)).verdict == "better by 2.1 standard errors"
    assert Comparison(1, 2, Estimate(0.010, 0.01)).verdict == "not distinguishable (1.0 standard errors)"
    assert Comparison(1, 2, Estimate(0.010, math.nan)).verdict.startswith("not distinguishable: ")


def test_one_document_and_one_seed_tell_nothing():
    tokens = np.array([5])
    pair = [
        finalist_of(trial, [DocumentScores(np.array([9.0 + trial]), tokens, tokens, ["a"])])
        for trial in (0, 1)
    ]
    assert math.isnan(compare(*pair).bits_per_byte.standard_error)


@pytest.mark.parametrize(("seeds", "mean"), [(1, 1.0), (2, 1.5), (3, 2.0)])
def test_runs_with_more_seeds_than_are_asked_for_do_not_count(tmp_path, seeds, mean):
    """As when [sweep].seeds is made smaller after three have been run."""
    paths = Paths(tmp_path)
    journal = Journal(paths.journal)
    for trial in (0, 1):
        for seed in (1, 2, 3):
            job = Job(trial, {"optimizer.lr": 0.1 * (trial + 1)}, seed=seed, is_score=True)
            journal.add(job)
            journal.end(job.name, Result("complete", 1.0))
            paths.scores(job).parent.mkdir(exist_ok=True)
            document = {"nats": seed * math.log(2), "tokens": 3, "bytes": 1, "file": "a"}
            paths.scores(job).write_text(2 * f"{json.dumps(document)}\n")
    space = {"optimizer.lr": [0.1, 0.2]}
    config = from_dict(SweepConfig, {"sweep": {"method": "grid", "space": space, "seeds": seeds}})
    found = result_of(Sweep.of(config, paths)).finalists
    assert [finalist.bits_per_byte.value for finalist in found] == pytest.approx([mean, mean])
