"""The load of the machine, from /proc/stat as the kernel writes it."""

import os

import pytest

from transformerlm.kernels import load
from transformerlm.kernels.load import Reading, cores_of_others, read_load

STAT = """cpu  {total} 0 0 0 0 0 0 0 0 0
cpu0 {user} 20 30 4000 500 6 7 {stolen} 0 0
cpu1 100 0 0 4000 0 0 0 0 50 0
cpu7 999999 0 0 0 0 0 0 0 0 0
intr 1 2 3
"""


@pytest.fixture
def stat(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(os, "sysconf", lambda name: 100)

    def write(**numbers):
        path = tmp_path / "stat"
        path.write_text(STAT.format(total=1, **numbers))
        return path

    return write


def test_busy_and_stolen_time_of_the_processors_that_may_be_used(stat):
    reading = read_load(stat(user=1000, stolen=8))
    assert (reading.busy, reading.cores) == (pytest.approx((1000 + 20 + 30 + 6 + 7 + 8 + 100) / 100), 2)
    assert read_load(stat(user=1000, stolen=108)).busy - reading.busy == pytest.approx(1.0)


def test_what_others_keep_busy():
    before, after = Reading(10.0, 1.0, 20.0, 2), Reading(12.0, 2.5, 23.5, 2)
    assert cores_of_others(before, after) == pytest.approx(1.0)
    assert cores_of_others(before, Reading(12.0, 3.0, 21.99, 2)) == 0.0  # within the ticks
    assert cores_of_others(before, before) is None


def test_a_stat_that_stands_still_is_not_believed(tmp_path):
    assert cores_of_others(Reading(0.0, 0.0, 5.0, 2), Reading(1.0, 1.9, 5.0, 2)) is None
    assert read_load(tmp_path / "missing").busy is None


def test_quiet_is_only_what_is_known_to_be(monkeypatch):
    for busy, expected in ((0.1, True), (1.0, False), (None, False)):
        monkeypatch.setattr(load, "read_load", lambda busy=busy: Reading(1.0, 0.0, busy, 2))
        assert load.is_quiet(since=Reading(0.0, 0.0, 0.0, 2)) is expected


def test_this_machine_can_be_read():
    first, second = read_load(), read_load()
    assert second.wall > first.wall
    assert second.own >= first.own
    assert first.cores >= 1
