"""Commands that end, or find the disk full, at every one of their calls to the file system."""

import functools

import pytest

from tests.faults.test_kills import run
from tests.faults.watched_disk import faults_of_order

# The quick suite tries some of a command's calls, the slow one all of them.
EVERY = {"train": 7, "make_data": 5, "train_tokenizer": 3}
TRIALS = [
    *EVERY.items(),
    *(pytest.param(name, 1, marks=[pytest.mark.slow, pytest.mark.endurance]) for name in EVERY),
]


@functools.cache
def enumerated(command: str, every: int) -> dict:
    """All faults in one program: its start takes longer than many trials."""
    return run("tests.faults.crashes", command, "--every", str(every), "--faults", *CRASHES, *FULL)


CRASHES, FULL = ("crash", "power"), ("full", "full-once")


@pytest.mark.parametrize(("command", "every"), TRIALS)
@pytest.mark.parametrize("fault", CRASHES)
def test_a_crash_at_any_call_loses_nothing_that_was_committed(command, fault, every):
    found = enumerated(command, every)[fault]
    assert found["trials"] >= 5
    assert set(found["statuses"]) == {"137"}
    assert found["order"] == found["unreadable"] == found["not_finished"] == []
    assert found["differences"] == found["temporaries_left"] == []


@pytest.mark.parametrize(("command", "every"), TRIALS)
@pytest.mark.parametrize("fault", FULL)
def test_a_full_disk_at_any_call_is_one_line_and_leaves_nothing_half_written(command, fault, every):
    found = enumerated(command, every)[fault]
    assert found["trials"] >= 5
    assert "74" in found["statuses"]
    assert found["bad_messages"] == found["unreadable"] == found["not_finished"] == []
    assert found["differences"] == found["temporaries_left"] == []


def test_the_judge_of_order_knows_a_commit_that_is_none():
    whole = [
        ("open", "d/.x.tmp.1.00"),
        ("write", "d/.x.tmp.1.00"),
        ("fsync", "d/.x.tmp.1.00"),
        ("rename", "d/.x.tmp.1.00 -> d/x"),
        ("fsync", "d"),
    ]
    assert faults_of_order(whole) == []
    assert len(faults_of_order(whole[:2] + whole[3:])) == 1
    assert len(faults_of_order(whole[:4])) == 1
    assert len(faults_of_order([*whole[:3], ("write", "d/.x.tmp.1.00"), *whole[3:]])) == 1
