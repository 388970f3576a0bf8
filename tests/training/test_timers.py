import subprocess
import sys
import time

import pytest

from transformerlm.training.timers import (
    DATA,
    FIRST_STEPS,
    KINDS,
    SAVING,
    STEPS,
    VALIDATING,
    Clock,
    Spent,
    duration,
    process_start,
)


class Now:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


def test_all_time_since_the_start_is_somebodys():
    now = Now()
    clock = Clock(now)
    now.seconds += 50  # such as reading a checkpoint
    clock.start()
    for kind, seconds in ((VALIDATING, 3.0), (SAVING, 0.5), (VALIDATING, 5.0)):
        now.seconds += seconds
        clock.spend(kind)
    now.seconds += 0.25
    assert clock.elapsed == 8.75
    assert clock.mean(VALIDATING) == 4.0
    assert clock.mean(SAVING) == 0.5
    assert clock.mean(STEPS) is None


def test_the_pace_is_that_of_warm_steps_waiting_for_data_included():
    now = Now()
    clock = Clock(now)
    for step in range(FIRST_STEPS + 4):
        assert (clock.pace is None) == (step <= FIRST_STEPS)
        now.seconds += 0.5
        clock.spend_on_data()
        now.seconds += 10.0 if step < FIRST_STEPS else 1.5
        clock.spend_on_step()
        clock.spend_on_step(times=0)
    assert clock.pace == 2.0
    assert clock.elapsed == FIRST_STEPS * 10.5 + 4 * 2


def test_a_lap_is_what_lies_between_two_moments():
    now = Now()
    clock = Clock(now)

    def steps(number):
        for _ in range(number):
            now.seconds += 0.25
            clock.spend_on_data()
            now.seconds += 0.75
            clock.spend_on_step()

    steps(5)
    before = clock.lap()
    steps(8)
    now.seconds += 100
    clock.spend(SAVING)
    assert clock.lap() - before == (8, 8.0, 2.0)


def test_a_later_process_goes_on_and_has_cold_steps_of_its_own():
    now = Now()
    first = Clock(now)
    for _ in range(FIRST_STEPS + 2):
        now.seconds += 2
        first.spend_on_step()
    now.seconds += 1e6  # between two processes
    second = Clock(now)
    second.load(first.state())
    second.start()
    assert (second.elapsed, second.pace) == (2.0 * FIRST_STEPS + 4, 2.0)
    now.seconds += 60  # compiling
    second.spend_on_step()
    assert (second.elapsed, second.pace) == (2.0 * FIRST_STEPS + 64, 2.0)


def test_a_state_is_plain_and_an_older_one_may_lack_kinds():
    clock = Clock()
    clock.spend(DATA)
    assert set(clock.state()) == set(KINDS)
    other = Clock()
    other.load({VALIDATING: [3.0, 2]})
    assert other.mean(VALIDATING) == 1.5
    assert Spent().mean is None


def test_a_clock_may_count_from_a_moment_before_it_was_made():
    now = Now()
    clock = Clock(now)
    clock.start(since=now.seconds - 30)
    clock.spend(VALIDATING)
    assert clock.elapsed == 30


def test_the_start_of_a_process_is_before_its_imports_and_after_it_was_asked_for():
    script = "import time; time.sleep(0.3); from transformerlm.training.timers import IMPORTED, process_start"
    before = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; print(process_start(), IMPORTED)"],
        capture_output=True,
        text=True,
        check=True,
    )
    start, imported = map(float, done.stdout.split())
    # Linux has one clock for all processes, and tells the start to a hundredth of a second.
    assert imported - start >= (0.29 if sys.platform == "linux" else 0)
    assert sys.platform != "linux" or before - 0.02 <= start <= time.perf_counter()
    assert process_start() <= time.perf_counter()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (4.4, "4s"),
        (59.6, "1m00s"),
        (725, "12m05s"),
        (3600, "1h00m"),
        (5430, "1h30m"),
        (90000, "25h00m"),
    ],
)
def test_durations_for_people(seconds, text):
    assert duration(seconds) == text
