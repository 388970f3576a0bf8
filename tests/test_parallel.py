import os
import signal
import threading
from itertools import count, islice

import pytest

from transformerlm.errors import DataError
from transformerlm.parallel import available_cores, ordered_map


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


@pytest.mark.parametrize("num_workers", [1, 2, 3])
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


def test_a_worker_that_is_killed_is_an_error_in_words_and_not_a_hang():
    with pytest.raises(DataError, match="worker processes died"):
        list(ordered_map(die, range(3), 2))


def test_it_works_beside_threads():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert list(ordered_map(abs, [-1, -2], 2)) == [1, 2]
    finally:
        stop.set()
        thread.join()


def test_available_cores():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
