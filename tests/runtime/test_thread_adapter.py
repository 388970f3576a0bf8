"""The adapter observes steps that are long enough, sets the number of threads and says what changes."""

import pytest
import torch

from transformerlm.kernels.load import Reading
from transformerlm.runtime import LoadWatch, ThreadAdapter
from transformerlm.runtime.load_policy import QUIET_WINDOWS
from transformerlm.runtime.thread_adapter import ThreadChange


class System:
    """Two processors, on which others keep `others` busy."""

    def __init__(self):
        self.wall = self.own = self.busy = 0.0
        self.others, self.threads = 0.0, [2]

    def read(self):
        return Reading(self.wall, self.own, self.busy, cores=2)

    def work(self, seconds):
        self.wall += seconds
        self.own += seconds
        self.busy += seconds * (1 + self.others)


@pytest.fixture
def system():
    return System()


@pytest.fixture
def run(system):
    """A run whose steps take 0.1 s with one thread, and beside other work 0.25 s with two, alone 0.06 s."""
    adapter = ThreadAdapter(2, system.read, system.threads.append)
    steps, total = 0, 0.0

    def take(number):
        nonlocal steps, total
        changes = []
        for _ in range(number):
            two = 0.25 if system.others else 0.06
            seconds = two if system.threads[-1] == 2 else 0.1
            system.work(seconds)
            steps, total = steps + 1, total + seconds
            changes.append(adapter.after_steps(steps, total))
        return [change for change in changes if change]

    take.adapter = adapter
    return take


def test_changes_are_told_and_applied(run, system):
    assert run(100) == []
    system.others = 1.0
    trial, kept = run(30)
    assert (trial.before, trial.num_threads, trial.is_lasting) == (2, 1, False)
    assert (kept.before, kept.num_threads, kept.is_lasting) == (2, 1, True)
    assert str(kept) == "threads: 2 -> 1, since other work keeps 1.0 processors busy"
    changes = run(200)  # two threads are tried again, and left
    assert [(change.num_threads, change.is_lasting) for change in changes[:2]] == [(2, False), (1, False)]
    system.others = 0.0
    (back,) = run(20)
    assert (back.before, back.num_threads, back.is_lasting) == (1, 2, True)
    run.adapter.stop()
    assert system.threads[-1] == 2


def test_the_first_steps_and_short_ones_are_not_observed(system):
    reads = []
    adapter = ThreadAdapter(2, lambda: reads.append(1) or system.read(), system.threads.append)
    for steps in range(1, 4):
        adapter.after_steps(steps, 5.0 * steps)
    assert len(reads) == 1
    adapter.after_steps(4, 20.0)
    assert len(reads) == 2
    for number in range(29):
        adapter.after_steps(5 + number, 20.0 + 0.01 * number)
    assert len(reads) == 2


def test_the_watch_makes_threads_sleep_soon_while_there_is_other_work(system, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        watch = LoadWatch(system.read)
        is_on = []
        monkeypatch.setattr(watch, "_apply", is_on.append)
        for others in (0.0, 1.0, *[0.0] * QUIET_WINDOWS):
            system.others = others
            system.work(0.25)
            watch.look()
    finally:
        torch.set_num_threads(before)
    assert is_on == [False, True, *[True] * (QUIET_WINDOWS - 1), False]


@pytest.mark.parametrize(
    ("numbers", "others", "why"),
    [
        ((2, 1), 0.3, "other work keeps 0.3 processors busy"),
        ((2, 1), 0.1, "other work comes and goes"),
        ((1, 2), 0.1, "the machine is quiet again"),
    ],
)
def test_the_reason_is_one_that_people_can_see(numbers, others, why):
    before, after = numbers
    change = ThreadChange(before, after, others, is_lasting=True)
    assert str(change) == f"threads: {before} -> {after}, since {why}"
