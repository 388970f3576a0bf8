"""How threads of the commands wait for each other: soon asleep, or polling as long as it pays."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from transformerlm.kernels import threads
from transformerlm.kernels.environment import CACHE_VARIABLE
from transformerlm.kernels.spin_probe import SPINS, openmp_path, seconds_of_piece
from transformerlm.kernels.threads import SleepSoon, best_spins

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
COMMAND = """
from transformerlm.cli.command import Command, run_command
from transformerlm.config import InferConfig

def load(config):
    LOAD

run_command(Command(InferConfig, load), [])
"""
PYTORCH = "import torch"
OPENMP = f"import ctypes; ctypes.CDLL({str(openmp_path())!r})"
"""The library alone, which loads sooner."""
needs_openmp = pytest.mark.skipif(openmp_path() is None, reason="PyTorch's OpenMP is another one")


@pytest.mark.slow
@needs_openmp
@pytest.mark.parametrize(
    ("load", "chosen", "expected"),
    [
        (PYTORCH, {}, f"GOMP_SPINCOUNT = '{SPINS[0]}'"),
        (OPENMP, {"GOMP_SPINCOUNT": "77"}, "GOMP_SPINCOUNT = '77'"),
        (OPENMP, {"OMP_WAIT_POLICY": "passive"}, "GOMP_SPINCOUNT = '0'"),
    ],
)
def test_openmp_itself_says_how_it_waits(load, chosen, expected):
    environment = ENVIRONMENT | chosen | {"OMP_DISPLAY_ENV": "verbose"}
    command = [sys.executable, "-c", COMMAND.replace("LOAD", load)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert expected in done.stderr


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A process that has not imported PyTorch, on two processors, with nothing kept."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in threads.CHOICES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def times(*microseconds):
    return lambda num_threads: dict(zip(SPINS, (each * 1e-6 for each in microseconds), strict=True))


@needs_openmp
@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (times(60, 5, 4), "30000"),
        (times(60, 40, 4), "300000"),
        (times(4, 4, 4), "3000"),
        (lambda num_threads: None, "3000"),  # the machine has other work
    ],
)
def test_the_fewest_polls_that_lose_nothing_are_taken(measured, expected, fresh):
    assert best_spins(measured) == expected


@needs_openmp
def test_only_an_answer_of_a_quiet_machine_is_kept(fresh):
    assert best_spins(lambda num_threads: None) == "3000"
    assert best_spins(times(60, 40, 4)) == "300000"
    assert best_spins(times(4, 4, 4)) == "300000"


@needs_openmp
@pytest.mark.parametrize("chosen", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_what_the_user_has_set_stays(chosen, fresh, monkeypatch):
    monkeypatch.setenv(chosen, "77")
    before = dict(os.environ)
    threads.wait_as_measured(lambda num_threads: pytest.fail("measured"))
    assert dict(os.environ) == before


@needs_openmp
def test_the_environment_has_what_was_measured(fresh, monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # restored afterwards
    monkeypatch.delenv("GOMP_SPINCOUNT")
    threads.wait_as_measured(times(60, 40, 4))
    assert os.environ["GOMP_SPINCOUNT"] == "300000"


@needs_openmp
def test_the_probe_measures_openmp_without_pytorch():
    seconds = {polls: seconds_of_piece(openmp_path(), 2, polls) for polls in SPINS}
    assert all(0 < value < 5 for value in seconds.values())


@needs_openmp
def test_threads_that_hold_the_team_come_and_go(monkeypatch):
    import torch  # noqa: F401 - with it OpenMP

    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)

    def num_threads():
        return len(list(Path("/proc/self/task").iterdir()))

    switch, before = SleepSoon(), num_threads()
    for _ in range(3):
        switch.turn_on()
        switch.turn_on()
        assert switch.is_on
        assert num_threads() >= before + threads.available_cores()
        switch.turn_off()
        assert not switch.is_on
        deadline = time.monotonic() + 60
        while num_threads() > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert num_threads() <= before
