"""Estimates of a sweep."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sweep.test_methods import SPACE, config_of, searched
from transformerlm.config import ScheduleConfig, TrainConfig, TrainingConfig
from transformerlm.sweep.job import Job, Paths, job_config
from transformerlm.sweep.plan import makespan, parts_left, plan_lines
from transformerlm.sweep.state import Sweep


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 4))
def test_the_time_of_several_workers_is_that_of_a_simulation(seconds, workers):
    """The oracle: second by second, each free worker takes the next run."""
    waiting, left, clock = list(seconds), [0] * workers, 0
    while waiting or any(left):
        left = [waiting.pop(0) if not one and waiting else one for one in left]
        left = [max(0, one - 1) for one in left]
        clock += 1
    assert makespan(seconds, workers) == clock


@pytest.mark.parametrize("method", ["random", "halving"])
def test_what_is_left_is_what_a_whole_sweep_then_does(tmp_path, method):
    space = {**SPACE, "optimizer.lr": {"low": 1e-3, "high": 1e-2}}  # none diverges
    config = config_of(space, method=method, max_trials=9, finalists=2, seeds=2)
    new = Sweep.of(config, Paths(tmp_path / "new"))
    whole = searched(tmp_path, config, shuffle=0)
    assert parts_left(new) == [job.part for job in whole.begun() if not job.is_score]
    assert parts_left(whole) == []
    for job in itertools.islice(new.jobs(), 3):
        new.journal.add(job)
        new.journal.end(job.name, whole.journal.results[job.name])
    assert parts_left(new) == [job.part for job in whole.begun() if not job.is_score][3:]


def test_trials_with_a_budget_in_time_need_no_measurement(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_of(method="random", max_trials=7, workers_per_device=2)
    training = {"max_steps": None, "max_time": "57s"}
    changed = type(config)(
        training=type(config.training)(**training),
        sweep=config.sweep,
        runtime=type(config.runtime)(device="cpu"),
    )
    lines = dict(line.split(maxsplit=1) for line in plan_lines(changed, None))
    assert lines["trial"] == "1m00s with the whole budget, by [training].max_time"
    assert lines["in"].split() == ["all", "4m00s"]
    assert not list(tmp_path.iterdir())


def test_trials_are_compared_by_their_networks(tmp_path):
    base = TrainConfig(
        training=TrainingConfig(max_steps=10, ngram_memory=True), schedule=ScheduleConfig(warmup_steps=2)
    )
    found = job_config(base, Job(1, {"optimizer.lr": 0.01}), Paths(tmp_path))
    assert (found.optimizer.lr, found.training.ngram_memory) == (0.01, False)
