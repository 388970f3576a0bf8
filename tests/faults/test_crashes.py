"""Commands that crash, or find the disk full, at their calls to the file system."""

import pytest

from tests.faults.programs import run
from tests.faults.watched_disk import faults_of_order

COMMANDS = ["train", "make_data", "train_tokenizer"]
CRASHES, FULL = ("crash", "power"), ("full", "full-once")


@pytest.mark.slow
@pytest.mark.parametrize(
    "every",
    [
        pytest.param([40, 20, 6], id="some calls"),
        pytest.param([1], marks=pytest.mark.endurance, id="every call"),
    ],
)
def test_a_crash_or_a_full_disk_at_any_call_loses_nothing_that_was_committed(every):
    # One program for all: its start takes longer than many trials.
    words = ["--every", *map(str, every), "--faults", *CRASHES, *FULL]
    found = run("tests.faults.crashes", *COMMANDS, *words)
    assert [*found] == COMMANDS
    for command, by_fault in found.items():
        for fault in CRASHES:
            check_crashes(by_fault[fault], f"{command}: {fault}")
        for fault in FULL:
            check_full_disk(by_fault[fault], f"{command}: {fault}")
        assert any("74" in by_fault[fault]["statuses"] for fault in FULL), command


def check_crashes(found: dict, name: str) -> None:
    assert found["trials"] >= 3, name
    assert set(found["statuses"]) == {"137"}, name
    assert found["order"] == found["unreadable"] == found["not_finished"] == [], name
    assert found["differences"] == found["temporaries_left"] == [], name


def check_full_disk(found: dict, name: str) -> None:
    """One line says so, and nothing half-written is left."""
    assert found["trials"] >= 3, name
    assert found["bad_messages"] == found["unreadable"] == found["not_finished"] == [], name
    assert found["differences"] == found["temporaries_left"] == [], name


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
