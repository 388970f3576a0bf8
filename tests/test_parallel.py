import os
import signal
import subprocess
import sys
import threading
import time
from itertools import count, islice
from pathlib import Path

import pytest

from tests.worker_functions import die, fail_at_three, own_process, own_process_later, square
from transformerlm.errors import DataError
from transformerlm.parallel import ordered_map, threaded_groups, threaded_map

ROOT = Path(__file__).parents[1]


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


@pytest.mark.parametrize("num_threads", [None, 1, 2, 5])
def test_threads_return_results_in_the_order_of_the_items(num_threads):
    assert threaded_map(square, range(50), num_threads, abs) == [x * x for x in range(50)]
    assert threaded_map(square, [], num_threads, abs) == []


def test_work_is_shared_with_other_threads_where_it_is_worth_them():
    both = threading.Barrier(2)

    def meet(items):
        if items[0] in (0, 1):
            both.wait(timeout=60)
        return [threading.get_ident()] * len(items)

    assert len(set(threaded_groups(meet, range(2), 2, lambda _: 1))) == 2
    both.abort()
    sizes = []
    assert threaded_groups(lambda items: sizes.append(len(items)) or items, [7] * 9, 2, abs, 32) == [7] * 9
    assert sizes == [9]


@pytest.mark.parametrize("is_own", [True, False])
def test_an_error_in_any_thread_reaches_the_caller_when_all_have_ended(is_own):
    caller, running, both = threading.get_ident(), set(), threading.Barrier(2)

    def fail(items):
        running.add(items[0])
        if items[0] in (0, 3):  # the first two groups
            both.wait(timeout=60)
        try:
            if (threading.get_ident() == caller) == is_own:
                raise IndexError("three")
            time.sleep(0.01)
        finally:
            running.discard(items[0])
        return list(items)

    with pytest.raises(IndexError, match="three"):
        threaded_groups(fail, range(40), 2, lambda _: 1)
    assert not running


@pytest.mark.slow
def test_a_worker_that_is_killed_is_an_error_in_words_and_not_a_hang():
    with pytest.raises(DataError, match="worker processes died"):
        list(ordered_map(die, range(3), 2))


WAITING = """
import itertools, os, sys, time
from tests.worker_functions import own_process_later
from transformerlm.parallel import ordered_map, threaded_groups, threaded_map

def items():
    yield from range(8)
    time.sleep(60)

for process in itertools.islice(ordered_map(own_process_later, items(), 2), 4):
    print(process, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are looked for in /proc")
def test_workers_end_with_a_parent_that_is_killed():
    command = [sys.executable, "-c", WAITING]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    workers = set(map(int, done.stdout.split()))
    assert workers
    end = time.monotonic() + 60
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


def test_no_more_processes_are_started_than_there_are_items():
    assert len(set(ordered_map(own_process_later, range(3), 8))) <= 3


@pytest.mark.parametrize("reason", ["frozen", "embedded", "no more processes"])
def test_threads_take_the_place_of_processes_that_cannot_be_started(reason, monkeypatch):
    if reason == "frozen":  # sys.executable would be the program itself
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    elif reason == "embedded":
        monkeypatch.setattr(sys, "executable", "/usr/bin/editor")
    else:
        monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    assert set(ordered_map(own_process, range(4), 2)) == {os.getpid()}


SCRIPT = """
print("this script runs")
import sys, threading
from transformerlm.tokenizer import train_bpe_from_texts

threading.Thread(target=threading.Event().wait, daemon=True).start()  # as tqdm's bars do
texts = ["some words " * 60_000] * 2
vocab, merges = train_bpe_from_texts(texts, 260, ["<|endoftext|>"], pattern=r"\\S+|\\s+", num_workers=2)
print(len(vocab), "multiprocessing.synchronize" in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("given_as", ["a file", "stdin"])
def test_a_script_without_a_main_guard_runs_once_and_needs_no_semaphores(given_as, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    with (tmp_path / "script.py").open() as script:
        command = [sys.executable, *(["script.py"] if given_as == "a file" else [])]
        done = subprocess.run(command, stdin=script, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "this script runs\n260 False\n", "")
