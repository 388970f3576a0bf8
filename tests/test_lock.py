"""Locks between real processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from transformerlm.errors import LockedError
from transformerlm.lock import LOCK_FILE, locked

HOLD = """
import sys, time
from pathlib import Path
from transformerlm.errors import LockedError
from transformerlm.lock import locked

while time.time() < float(sys.argv[2]):
    pass
try:
    with locked(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
except LockedError as error:
    print(error, flush=True)
    sys.exit(error.exit_status)
"""


def start(folder, at=0.0):
    command = [sys.executable, "-c", HOLD, str(folder), str(at)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True)


def test_a_second_process_is_told_at_once_who_holds_it(tmp_path):
    folder = tmp_path / "a run" / "of läte"
    holder = start(folder)
    assert holder.stdout.readline() == "held\n"
    started = time.monotonic()
    with pytest.raises(LockedError) as caught, locked(folder):
        pass
    assert time.monotonic() - started < 1
    (line,) = caught.value.lines
    assert f"{folder}: in use by process {holder.pid} on {os.uname().nodename}, " in line
    assert caught.value.exit_status == 75
    holder.communicate("")
    with locked(folder):
        assert json.loads((folder / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_killed_holder_blocks_nobody(tmp_path):
    holder = start(tmp_path)
    holder.stdout.readline()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("trials", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_of_many_that_start_together_one_wins(tmp_path, trials):
    for trial in range(trials):
        racers = [start(tmp_path / str(trial), time.time() + 1) for _ in range(4)]
        first = [racer.stdout.readline() for racer in racers]
        for racer in racers:
            racer.communicate("")
        assert first.count("held\n") == 1
        assert sorted(racer.returncode for racer in racers) == [0, 75, 75, 75]


def test_programs_that_a_holder_has_started_do_not_hold_it(tmp_path):
    with locked(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    with locked(tmp_path):
        pass
    child.communicate(b"\n")
