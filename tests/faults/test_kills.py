"""Trainings that are killed, and the proof that the harness would notice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*words: str) -> dict:
    """What `python -m tests.faults...` finds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)
    return json.loads(done.stdout)


@pytest.mark.parametrize("kills", [50, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.endurance])])
def test_a_killed_training_loses_one_save_interval_and_comes_to_the_same_bits(kills):
    found = run("tests.faults.kills", "--kills", str(kills), "--seed", str(kills))
    assert found["failed"] == []
    assert found["kills"] >= kills
    assert found["unreadable"] == []
    assert found["went_back"] == 0
    assert found["most_steps_lost"] <= 3  # tests.faults.small_run.CHECKPOINT_EVERY
    assert found["torn_metrics"] == 0
    assert found["differences"] == []
    # Some kills hit a save, and left what the next start removed.
    assert found["temporaries_made"] > 0
    assert found["temporaries_left"] == []


def test_a_saver_that_writes_in_place_is_found_out():
    assert run("tests.faults.kills", "--kills", "25", "--control", "in-place")["unreadable"] != []


def test_a_resume_that_forgets_the_random_numbers_is_found_out():
    found = run("tests.faults.kills", "--kills", "10", "--control", "no-rng")
    assert found["differences"] != []
    assert found["unreadable"] == []


@pytest.mark.parametrize("signals", [40, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.endurance])])
def test_a_training_that_is_asked_to_stop_saves_its_step_wherever_it_is(signals):
    found = run("tests.faults.kills", "--signals", "--kills", str(signals), "--seed", str(signals))
    assert found["kills"] >= signals
    assert found["stops"] >= signals / 4
    assert found["failed"] == found["not_saved"] == found["unreadable"] == []
    assert found["went_back"] == found["torn_metrics"] == 0
    assert found["differences"] == found["temporaries_left"] == []
