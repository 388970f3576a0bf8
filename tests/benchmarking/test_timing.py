"""The timing harness: processes, time limits, rounds, medians."""

import dataclasses
import functools
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarking.timing import Contestant, Contestants, Measured, Memory, Outcome, Task


def slow(seconds, time_limit):
    """A task whose one round takes so long."""
    return Task(functools.partial(functools.partial, time.sleep, seconds), str, time_limit)


def test_contestants_that_fail_or_take_too_long_are_left_out_and_can_enter_again(capfd):
    said = []
    start = time.perf_counter()
    with Contestants(said.append) as contestants:
        tasks = {
            "quick": slow(0.01, 30),
            "slow": slow(100, 0.5),
            "failing": Task(functools.partial(functools.partial, int, "x"), str, 30),
            "unprepared": Task(functools.partial(int, "x"), str, 30),
        }
        outcomes = contestants.race("a race", tasks, warmup_rounds=1, rounds=3)
        again = contestants.race("another", {"slow": slow(0.01, 30), "quick": slow(0.02, 30)})
    assert time.perf_counter() - start < 90  # of the 100 that the slow one would take
    assert said == [
        "a race: unprepared failed (its own words are above): left out",
        "a race: slow took more than 0.5 seconds: left out",
        "a race: failing failed (its own words are above): left out",
    ]
    assert "invalid literal for int()" in capfd.readouterr().err
    assert list(outcomes) == ["quick"]
    assert len(outcomes["quick"].rounds) == 3
    assert outcomes["quick"].fingerprint == "None"
    assert all(0.01 <= measured.seconds < 1 for measured in outcomes["quick"].rounds)
    assert all(measured.cores < 0.9 for measured in outcomes["quick"].rounds)  # asleep
    assert list(again) == ["slow", "quick"]


def fingerprints(task):
    """Of three rounds."""
    contestant = Contestant()
    contestant.prepare(task)
    contestant.wait()
    found = [contestant.run(True).fingerprint for _ in range(3)]
    contestant.close()
    return found


def test_only_a_new_contestant_is_prepared_before_every_round():
    counter = functools.partial(eval, "__import__('itertools').count().__next__")
    assert fingerprints(Task(counter, str, 30)) == ["0", "1", "2"]
    assert fingerprints(Task(counter, str, 30, is_new=True)) == ["0", "0", "0"]
    assert fingerprints(Task(counter, str, 30, calls=5)) == ["4", "9", "14"]


def test_a_round_of_many_calls_takes_as_long_as_one_of_them():
    task = dataclasses.replace(slow(0.01, 30), calls=20)
    with Contestants(print) as contestants:
        (measured,) = contestants.race("calls", {"a": task})["a"].rounds
    assert 0.01 <= measured.seconds < 0.1


def test_a_fingerprint_is_of_the_first_round_or_of_every_one():
    counter = functools.partial(eval, "__import__('itertools').count().__next__")
    for is_checked, expected in ((False, ["0", ""]), (True, ["0", "1"])):
        with Contestants(print) as contestants:
            task = Task(counter, str, 30, is_checked_every_round=is_checked)
            outcome = contestants.race("counting", {"a": task}, rounds=2)["a"]
        assert [measured.fingerprint for measured in outcome.rounds] == expected


def test_medians_and_their_ratio():
    def outcome(*seconds):
        memory = Memory(1, 1)
        return Outcome(memory, tuple(Measured(value, 1.0, memory, "") for value in seconds), "")

    slow, quick = outcome(9.0, 2.0, 4.0), outcome(1.0, 2.0, 8.0)
    assert (slow.seconds, slow.median, slow.times_slower_than(quick)) == ([9.0, 2.0, 4.0], 4.0, 2.0)


LONG = """
import sys
from pathlib import Path
from benchmarking.timing import timed_command
command = "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(600)"
timed_command([sys.executable, "-c", command], Path("."))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's prctl")
def test_a_command_ends_when_the_process_that_measures_it_is_killed():
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", LONG], cwd=root, stderr=subprocess.PIPE) as parent:
        assert int(parent.stderr.readline()) != parent.pid
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert parent.stderr.read() == b""  # it ends when nobody can write any more
