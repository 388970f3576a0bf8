"""Search methods: the runs that they ask for depend on the results so far, and on nothing else."""

import itertools
import math
import random

import pytest

from transformerlm.config import SweepConfig
from transformerlm.config.space import read_space
from transformerlm.schema import from_dict
from transformerlm.sweep.job import Job, Paths
from transformerlm.sweep.journal import Journal, Result
from transformerlm.sweep.methods import method_of, random_values
from transformerlm.sweep.state import Sweep

SPACE = {
    "optimizer.lr": {"low": 1e-4, "high": 1e-1, "scale": "log"},
    "model.num_layers": [1, 2, 3],
    "optimizer.weight_decay": {"low": 0.0, "high": 0.4, "num": 3},
}
GRID = {"optimizer.lr": [1e-3, 1e-2], "model.num_layers": [1, 2, 3]}


def config_of(space=SPACE, **settings) -> SweepConfig:
    return from_dict(
        SweepConfig, {"training": {"max_steps": 270}, "sweep": {"space": space, "finalists": 0, **settings}}
    )


def planted(job: Job) -> Result:
    """A result that is lowest at a learning rate of 0.01, 2 layers and no weight decay; some diverge."""
    lr, layers = job.values["optimizer.lr"], job.values["model.num_layers"]
    if lr > 0.08:
        return Result("diverged")
    far = abs(math.log10(lr / 0.01)) + 0.3 * abs(layers - 2) + job.values.get("optimizer.weight_decay", 0.0)
    return Result("complete", 2.0 + far - 0.5 * job.part)


def searched(tmp_path, config, shuffle: int, workers: int = 1) -> Sweep:
    """Search with results that come in a random order, by a scheduler that is killed again and again."""
    rng, paths = random.Random(shuffle), Paths(tmp_path / str(shuffle))
    sweep, running = Sweep.of(config, paths), {}
    while True:
        for job in sweep.jobs():
            if len(running) < workers and job.name not in sweep.journal.results and job.name not in running:
                sweep.journal.add(job)
                sweep.journal.start(job.name, 0)
                running[job.name] = job
            if len(running) == workers:
                break
        if not running:
            return sweep
        if rng.random() < 0.2:
            sweep, running = Sweep.of(config, paths), {}
            continue
        job = running.pop(rng.choice(sorted(running)))
        sweep.journal.end(job.name, planted(job))


def what_it_did(sweep: Sweep) -> dict:
    return {job.name: (job, sweep.journal.results[job.name]) for job in sweep.begun()}


def test_a_grid_is_every_combination_once(tmp_path):
    jobs = list(method_of(config_of(GRID, method="grid")).jobs(Journal(tmp_path / "journal")))
    expected = list(itertools.product([1e-3, 1e-2], [1, 2, 3]))
    assert [tuple(job.values.values()) for job in jobs] == expected
    assert [job.trial for job in jobs] == list(range(6))


def test_random_draws_fill_a_space_and_then_end():
    axes = read_space({"model.d_ff": list(range(1, 12)), "model.d_model": {"low": 1, "high": 9}}, SweepConfig)
    drawn = [tuple(values.values()) for values in random_values(axes, 0)]
    assert sorted(drawn) == sorted(itertools.product(range(1, 12), range(1, 10)))


@pytest.mark.parametrize("seed", range(5))
def test_random_draws_leave_smaller_gaps_than_independent_ones(seed):
    axes = read_space({"optimizer.lr": SPACE["optimizer.lr"]}, SweepConfig)
    drawn = sorted(values["optimizer.lr"] for values in itertools.islice(random_values(axes, seed), 16))
    gaps = [math.log10(after / before) for before, after in itertools.pairwise([1e-4, *drawn, 1e-1])]
    assert max(gaps) <= 2 * 3 / 16  # twice the gap of 16 evenly spread points
    rng = random.Random(seed)
    places = sorted(3 * rng.random() for _ in range(16))
    independent = [after - before for before, after in itertools.pairwise([0.0, *places, 3.0])]
    assert max(gaps) < max(independent)


def test_another_seed_gives_other_draws():
    axes = read_space(SPACE, SweepConfig)
    first, second = (list(itertools.islice(random_values(axes, seed), 5)) for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize(
    "settings", [{"method": "random", "max_trials": 12}, {"method": "halving", "max_trials": 12}]
)
@pytest.mark.parametrize("workers", [1, 3])
def test_kills_and_the_order_of_ends_change_nothing(tmp_path, settings, workers):
    config = config_of(**settings, seeds=2) if settings["method"] == "random" else config_of(**settings)
    expected = what_it_did(searched(tmp_path, config, shuffle=0))
    for shuffle in range(1, 6):
        assert what_it_did(searched(tmp_path, config, shuffle, workers)) == expected


def test_halving_trains_the_best_of_each_rung_again_with_a_larger_budget(tmp_path):
    sweep = searched(
        tmp_path, config_of(method="halving", max_trials=9, rungs=3, halving_factor=3), shuffle=0
    )
    rungs = [[job for job in sweep.begun() if job.rung == rung] for rung in range(3)]
    assert [len(rung) for rung in rungs] == [9, 3, 1]
    assert [rung[0].part for rung in rungs] == pytest.approx([1 / 9, 1 / 3, 1.0])
    # Written slowly: sort all results of a rung, and take the first third.
    for rung, following in itertools.pairwise(rungs):
        values = {job.trial: planted(job).value for job in rung if planted(job).value is not None}
        expected = sorted(values, key=lambda trial: (values[trial], trial))[: len(rung) // 3]
        assert [job.trial for job in following] == sorted(expected)
    assert sweep.ranked()[0].trial == rungs[2][0].trial


def test_a_sweep_in_which_nothing_is_complete_ends(tmp_path):
    space = {**SPACE, "optimizer.lr": [0.09, 0.1]}
    for method in ("grid", "random", "halving"):
        sweep = searched(tmp_path / method, config_of(space, method=method, max_trials=6), shuffle=0)
        assert sweep.ranked() == []
        assert {result.outcome for result in sweep.journal.results.values()} == {"diverged"}


@pytest.mark.parametrize("method", ["grid", "random", "halving", "tpe"])
def test_a_planted_optimum_is_found(tmp_path, method):
    space = {**SPACE, "optimizer.lr": {**SPACE["optimizer.lr"], "num": 7}}
    number = None if method == "grid" else 40
    sweep = searched(tmp_path, config_of(space, method=method, max_trials=number, rungs=2), shuffle=0)
    best = sweep.ranked()[0]
    optimum = {"optimizer.lr": 0.01, "model.num_layers": 2, "optimizer.weight_decay": 0.0}
    if method == "grid":
        assert best.values == optimum
    # Of 40 even draws, 13 have 2 layers, each with a field of 3 decades x 0.4 / 13 = 0.3 x 0.3 around it.
    near = {"tpe": 0.15}.get(method, 1.5 * 0.3)
    assert planted(best).value - planted(Job(0, optimum)).value < near
    # The oracle: the lowest of all results.
    drawn = [job for job in sweep.begun() if job.part == 1.0 and planted(job).value is not None]
    assert best == min(drawn, key=lambda job: planted(job).value)


def test_more_trials_are_those_before_and_others(tmp_path):
    few = what_it_did(searched(tmp_path, config_of(method="random", max_trials=5), shuffle=0))
    many = what_it_did(searched(tmp_path, config_of(method="random", max_trials=9), shuffle=0))
    assert len(many) == 9
    assert few.items() <= many.items()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_budget_in_time_leaves_time_for_the_finalists_and_counts_that_before_a_kill(tmp_path):
    config = config_of(method="random", max_time="100s", finalists=2, seeds=3)
    paths, clock, number = Paths(tmp_path), Clock(), 0
    while True:
        journal = Journal(paths.journal, clock)  # a new scheduler for each trial
        sweep = Sweep(config, paths, journal, method_of(config), num_workers=2)
        job = next((job for job in sweep.jobs() if job.name not in journal.results), None)
        if job is None or not job.is_search:
            break
        journal.add(job)
        journal.start(job.name, 0)
        clock.now += 10
        journal.end(job.name, Result("complete", float(job.trial)))
        clock.now += 1000  # nobody works
        number += 1
    # 6 runs of finalists on 2 workers take 30 of the 100 seconds.
    assert number == 7
    assert journal.seconds == pytest.approx(70)
