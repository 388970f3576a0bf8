"""Trainings that are killed or asked to stop, and negative controls of the harness."""

import json

import pytest

from tests.faults.programs import run

CHECKPOINT_EVERY = 3  # that of tests.faults.small_run, which imports much
CONTROLS = [{"control": "in-place", "kills": 100}, {"control": "no-rng", "kills": 100}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "signals"), [(8, 6), pytest.param(1000, 500, marks=pytest.mark.endurance, id="many")]
)
def test_a_training_survives_kills_and_signals_and_the_harness_finds_those_that_do_not(kills, signals):
    # One program for all: its start takes longer than many kills.
    series = [{"kills": kills, "seed": kills}, {"kills": signals, "seed": signals, "signals": True}]
    killed, stopped, in_place, no_rng = run("tests.faults.kills", "--series", json.dumps(series + CONTROLS))
    check_killed(killed, kills)
    check_stopped(stopped, signals)
    assert in_place["unreadable"] != []
    assert no_rng["differences"] != []
    assert no_rng["unreadable"] == []


def check_killed(found: dict, kills: int) -> None:
    """At most one save interval is lost, and the run comes to the bits of one that nothing happened to."""
    assert found["failed"] == []
    assert found["kills"] >= kills
    assert found["kills_of_the_command"] > 0
    assert found["unreadable"] == []
    assert found["went_back"] == 0
    assert found["most_steps_lost"] <= CHECKPOINT_EVERY
    assert found["torn_metrics"] == 0
    assert found["differences"] == []
    # Of many kills some hit a save, and left what the next start removed.
    assert found["temporaries_made"] > 0 or kills < 50
    assert found["temporaries_left"] == []


def check_stopped(found: dict, signals: int) -> None:
    """A run that is asked to stop saves its step, wherever it is."""
    assert found["kills"] >= signals
    assert found["stops"] >= signals / 5
    assert found["failed"] == found["not_saved"] == found["unreadable"] == []
    assert found["went_back"] == found["torn_metrics"] == 0
    assert found["differences"] == found["temporaries_left"] == []
