import os
import signal
import subprocess
import sys
import threading
import time
from itertools import count, islice
from pathlib import Path

import pytest

from transformerlm.errors import DataError
from transformerlm.parallel import ordered_map


def square(x: int) -> int:
    return x * x


def own_process(_: int) -> int:
    return os.getpid()


def fail_at_three(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x


def die(x: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return x


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_in_the_order_of_the_items(num_workers):
    assert list(ordered_map(square, range(50), num_workers)) == [x * x for x in range(50)]


def test_one_worker_is_this_process_and_more_are_others():
    assert set(ordered_map(own_process, range(4), 1)) == {os.getpid()}
    assert os.getpid() not in set(ordered_map(own_process, range(4), 2))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_endless_stream_is_read_only_as_far_as_needed(num_workers):
    read = count()
    assert list(islice(ordered_map(square, read, num_workers), 5)) == [0, 1, 4, 9, 16]
    assert next(read) <= 5 + 2 * num_workers


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_in_a_worker_reaches_the_caller(num_workers):
    with pytest.raises(ValueError, match="three"):
        list(ordered_map(fail_at_three, range(10), num_workers))


@pytest.mark.slow
def test_a_worker_that_is_killed_is_an_error_in_words_and_not_a_hang():
    with pytest.raises(DataError, match="worker processes died"):
        list(ordered_map(die, range(3), 2))


WAITING = """
import itertools, os, sys, time
from transformerlm.parallel import ordered_map

def own_process(_):
    time.sleep(0.05)
    return os.getpid()

def items():
    yield from range(8)
    time.sleep(60)

for process in itertools.islice(ordered_map(own_process, items(), 2), 4):
    print(process, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are looked for in /proc")
def test_workers_end_with_a_parent_that_is_killed():
    done = subprocess.run([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == -signal.SIGKILL
    workers = set(map(int, done.stdout.split()))
    assert workers
    end = time.monotonic() + 10
    while (left := [worker for worker in workers if is_running(worker)]) and time.monotonic() < end:
        time.sleep(0.01)
    assert not left


def is_running(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_it_works_beside_threads():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert list(ordered_map(abs, [-1, -2], 2)) == [1, 2]
    finally:
        stop.set()
        thread.join()
