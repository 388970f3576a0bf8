"""Teams of threads: every part of every call is done once, in threads, after forks, and at the end."""

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from transformerlm.kernels import teams
from transformerlm.kernels.environment import CACHE_VARIABLE
from transformerlm.kernels.library import Library
from transformerlm.kernels.target import FUTEX
from transformerlm.kernels.teams import run_on_team

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(FUTEX is None, reason="there are no teams on this system")


@pytest.fixture(scope="module")
def add(tmp_path_factory):
    """A kernel that adds an array to another one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        return Library("small", "small_kernels", [], 1).kernels().add


def sums(add, num_threads, num_calls, size=37):
    """How often each number was added in so many calls."""
    x, out = np.ones(size, np.float32), np.zeros(size, np.float32)
    for _ in range(num_calls):
        run_on_team(add, num_threads, x.ctypes.data, out.ctypes.data, size)
    return set(out.tolist())


@pytest.mark.parametrize("num_threads", [1, 2, 3, 16])
def test_every_part_of_every_call_is_done_once(add, num_threads):
    assert sums(add, num_threads, 100) == {100.0}


def test_several_threads_of_a_program_call_at_once(add):
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda size: sums(add, 2, 200, size), range(10, 18))) == [{200.0}] * 8


def test_threads_without_work_use_no_processor(add):
    sums(add, 4, 10)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1  # three that poll would have used up to 1.5 seconds


def test_where_the_system_allows_no_more_threads_those_started_end(add, monkeypatch):
    started, start = [], teams._start_thread

    def start_two(function, frame):
        if len(started) == 2:
            raise OSError(errno.EAGAIN, "no more threads")
        started.append(start(function, frame))
        return started[-1]

    monkeypatch.setattr(teams, "_start_thread", start_two)
    before = len(os.listdir("/proc/self/task"))
    with pytest.raises(OSError, match="no more threads"):
        teams.Team(5)
    assert len(started) == 2
    assert len(os.listdir("/proc/self/task")) == before


def ended(pid, seconds=60):
    """The exit status of a child, which is killed if it has not ended after some time."""
    for _ in range(10 * seconds):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hangs"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_child_has_teams_of_its_own(add):
    assert sums(add, 3, 10) == {10.0}
    pid = os.fork()
    if pid == 0:
        os._exit(0 if sums(add, 3, 10) == {10.0} else 1)
    assert ended(pid) == 0
    assert sums(add, 3, 10) == {10.0}


ENDS = """
import sys
sys.path.insert(0, {folder!r})
from transformerlm.kernels.library import Library
from transformerlm.kernels.teams import _IDLE, run_on_team
import numpy as np
out = np.zeros(5, np.float32)
add = Library("small", "small_kernels", [], 1).kernels().add
run_on_team(add, 4, np.ones(5, np.float32).ctypes.data, out.ctypes.data, 5)
print(out.tolist(), len(_IDLE[4]))
"""


@pytest.mark.slow
def test_a_process_with_teams_ends(tmp_path):
    command = [sys.executable, "-c", ENDS.format(folder=str(HERE))]
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "[1.0, 1.0, 1.0, 1.0, 1.0] 1\n"
