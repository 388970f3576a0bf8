"""Sweeps whose scheduler and workers are killed come to what one comes to that nothing happens to."""

import pytest

from tests.faults.programs import run


@pytest.mark.slow
@pytest.mark.parametrize("kills", [12, pytest.param(100, marks=pytest.mark.endurance)])
def test_kills_lose_and_repeat_nothing(kills):
    found = run("tests.sweep.kills", "--kills", str(kills))
    assert found["failed"] == []
    assert found["kills_of_schedulers"] + found["kills_of_workers"] >= kills
    assert min(found["kills_of_schedulers"], found["kills_of_workers"]) > 0
    assert found["orphans"] == []
    assert found["differences"] == []
    assert found["runs"] >= 8  # what was compared: the runs of the search and of the finalists, and results


@pytest.mark.slow
@pytest.mark.endurance
def test_the_harness_finds_a_sweep_that_loses_runs():
    found = run("tests.sweep.kills", "--kills", "20", "--control")
    assert found["differences"] or found["failed"]
