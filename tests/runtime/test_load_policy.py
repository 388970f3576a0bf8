"""Decisions by the load, without a clock: machines are simulated, one observation after the other."""

import pytest

from transformerlm.runtime.load_policy import (
    CROWDED_WINDOWS,
    QUIET_WINDOWS,
    Crowding,
    Observation,
    ThreadPolicy,
)


def test_a_machine_is_crowded_at_once_and_quiet_after_a_while():
    crowding = Crowding(num_threads=2, num_cores=2)
    assert crowding.is_crowded  # until the first observation: never far from the best
    assert not crowding.update(0.05)
    assert not crowding.update(0.25)  # a little work is none
    assert crowding.update(0.9)
    answers = [crowding.update(0.05) for _ in range(QUIET_WINDOWS)]
    assert answers == [True] * (QUIET_WINDOWS - 1) + [False]
    assert crowding.update(0.9)
    assert [crowding.update(0.2) for _ in range(9)] == [True] * 9  # between the limits nothing changes


def test_processors_that_nobody_wants_crowd_nobody():
    crowding = Crowding(num_threads=2, num_cores=8)
    assert not any(crowding.update(others) for others in (1.0, 6.1, 5.9))
    assert crowding.update(6.5)


def test_what_is_not_known_counts_as_quiet():
    crowding = Crowding(num_threads=2, num_cores=2)
    assert not any(crowding.update(None) for _ in range(5))


class Machine:
    """A machine whose steps take a known time for each number of threads, beside a known load."""

    def __init__(self, seconds_of, num_cores=2):
        self.seconds_of, self.policy = seconds_of, ThreadPolicy(max(seconds_of), num_cores)
        self.seconds, self.steps = 0.0, 0.0

    def run(self, windows, others):
        """Return the numbers of threads of each window."""
        numbers = []
        for _ in range(windows):
            number = self.policy.num_threads
            numbers.append(number)
            seconds = self.seconds_of[number]
            self.seconds, self.steps = self.seconds + 0.3, self.steps + 0.3 / seconds
            self.policy.decide(Observation(seconds, 0.3, others))
        return numbers


def test_on_a_quiet_machine_nothing_changes():
    machine = Machine({1: 1.0, 2: 0.6})
    assert machine.run(1000, others=0.05) == [2] * 1000


def test_a_moment_of_other_work_changes_nothing():
    machine = Machine({1: 1.0, 2: 0.6})
    for _ in range(20):
        numbers = machine.run(CROWDED_WINDOWS - 1, others=0.9) + machine.run(QUIET_WINDOWS + 1, others=0.0)
        assert set(numbers) == {2}


@pytest.mark.parametrize("two", [2.5, 1.1, 0.9])
def test_beside_a_busy_process_it_is_as_fast_as_the_better_number(two):
    """At least 97 % of the better number in the long run, and one thread soon if that is better."""
    machine = Machine({1: 1.0, 2: two})
    numbers = machine.run(3000, others=1.0)
    best = min(1.0, two)
    assert machine.steps >= 0.97 * machine.seconds / best
    if two > 1:
        assert numbers.index(1) <= CROWDED_WINDOWS + 2
        assert numbers.count(2) < 60
    assert machine.run(QUIET_WINDOWS + 1, others=0.05)[-1] == 2


def test_a_number_that_has_become_better_is_found():
    machine = Machine({1: 1.0, 2: 2.5})
    machine.run(50, others=1.0)
    assert machine.policy.num_threads == 1
    machine.seconds_of = {1: 1.0, 2: 0.7}
    assert 2 in machine.run(600, others=1.0)[-3:]


def test_on_many_processors_it_takes_those_that_are_free():
    """Sixteen, of which others take four: threads beyond twelve wait for each other."""
    seconds = {n: (1 / n if n <= 12 else 0.15) for n in range(1, 17)}
    machine = Machine(seconds, num_cores=16)
    machine.run(200, others=4.0)
    assert machine.policy.num_threads == 12


def test_without_knowledge_of_the_load_all_threads_compute():
    machine = Machine({1: 1.0, 2: 2.5})
    assert machine.run(100, others=None) == [2] * 100
