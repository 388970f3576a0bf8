"""Locks between real processes."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from transformerlm.errors import LockedError
from transformerlm.storage.files import remove_dead_temporaries
from transformerlm.storage.lock import LOCK_FILE, is_locked, locked, try_lock

HOLD = """
import sys, time
from pathlib import Path
from transformerlm.errors import LockedError
from transformerlm.storage.lock import locked

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
    with pytest.raises(LockedError) as caught, locked(folder):  # whoever waited would wait for ever
        pass
    (line,) = caught.value.lines
    assert f"{folder}: in use by process {holder.pid} on {os.uname().nodename}, " in line
    assert caught.value.exit_status == 75
    holder.communicate("")
    assert not folder.exists()
    with locked(folder):
        assert json.loads((folder / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_killed_holder_blocks_nobody(tmp_path):
    holder = start(tmp_path)
    holder.stdout.readline()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        pass


RACE = """
import os, sys, time
from pathlib import Path
from transformerlm.errors import LockedError
from transformerlm.storage.lock import locked

def race(folder, start, told, go_on):
    while time.time() < start:
        pass
    try:
        with locked(folder):
            os.write(told, b"h")
            os.read(go_on, 1)
    except LockedError as error:
        os.write(told, b"l")
        os._exit(error.exit_status)
    os._exit(0)

for trial in range(int(sys.argv[2])):
    (told, tell), (go_on, release) = os.pipe(), os.pipe()
    start = time.time() + 0.02
    racers = []
    for _ in range(4):
        process = os.fork()
        if not process:
            race(Path(sys.argv[1], str(trial % 3)), start, tell, go_on)
        racers.append(process)
    words = b"".join(os.read(told, 1) for _ in racers)
    os.write(release, b"g")
    statuses = sorted(os.waitstatus_to_exitcode(os.waitpid(racer, 0)[1]) for racer in racers)
    assert sorted(words) == sorted(b"hlll"), words
    assert statuses == [0, 75, 75, 75], statuses
    for descriptor in (told, tell, go_on, release):
        os.close(descriptor)
print("all")
"""


@pytest.mark.parametrize("trials", [20, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.endurance])])
def test_of_many_that_start_together_one_wins(tmp_path, trials):
    command = [sys.executable, "-c", RACE, str(tmp_path), str(trials)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "all\n"
    assert list(tmp_path.iterdir()) == []  # a folder in which nothing came about is gone again


def test_programs_that_a_holder_has_started_do_not_hold_it(tmp_path):
    with locked(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    with locked(tmp_path):
        pass
    child.communicate(b"\n")


@pytest.fixture(params=["ENOLCK", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"])
def no_locks(request, monkeypatch):
    """A file system that refuses locks, as Lustre and some mounts of NFS do."""

    def refuse(descriptor, operation):
        number = getattr(errno, request.param)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_lock_that_cannot_be_had_is_one_warning_and_the_work_goes_on(no_locks, tmp_path):
    told: list[str] = []
    with locked(tmp_path / "run", told.append):
        (tmp_path / "run" / "made").touch()
    (warning,) = told
    assert warning.startswith(f"warning: {tmp_path / 'run'}: cannot be locked on this file system; ")


def test_a_lock_that_can_be_had_is_not_told(tmp_path):
    with locked(tmp_path, pytest.fail):
        pass


def test_without_locks_temporaries_of_others_are_left_until_they_are_old(no_locks, tmp_path):
    """Their process may run on another machine."""
    young, old = (tmp_path / f".{name}.tmp.999999999.00000000" for name in ("young", "old"))
    for path, age in ((young, 3600), (old, 25 * 3600)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    assert remove_dead_temporaries(tmp_path) == [old]
    assert young.exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="nothing can be made in /proc")
def test_where_no_folder_can_be_made_it_does_not_try_for_ever():
    with pytest.raises(FileNotFoundError), locked(Path("/proc/nothing")):
        pass


def test_a_probe_tells_a_holder_and_is_taken_for_none(tmp_path):
    assert is_locked(tmp_path / "missing") is False
    assert is_locked(tmp_path) is False
    holder = start(tmp_path)
    assert holder.stdout.readline() == "held\n"
    before = (tmp_path / LOCK_FILE).read_bytes()
    assert is_locked(tmp_path) is True
    holder.kill()
    holder.communicate()
    assert is_locked(tmp_path) is False
    assert (tmp_path / LOCK_FILE).read_bytes() == before
    probe = os.open(tmp_path / LOCK_FILE, os.O_RDONLY)
    assert try_lock(probe, shared=True)  # held far longer than a probe does
    assert is_locked(tmp_path) is False  # another probe
    threading.Timer(0.02, os.close, [probe]).start()
    with locked(tmp_path):
        assert is_locked(tmp_path) is True


def test_a_probe_knows_nothing_where_there_are_no_locks(tmp_path, no_locks):
    (tmp_path / LOCK_FILE).touch()
    assert is_locked(tmp_path) is None
