"""Ordered maps over worker processes and threads."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from transformerlm.errors import DataError
from transformerlm.limits import available_cores

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], num_workers: int, *, threads: bool = False
) -> Iterator[R]:
    """Yield `map(function, items)`, computed by processes or threads, in the order of the items.

    `function` is sent to each process once, and the items one by one; all must pickle. At most
    `2 * num_workers` items are under way at a time, so `items` may be an endless stream. With one worker the
    calling thread does the work and nothing is started.

    Raises:
        DataError: a worker process died (most often: the machine ran out of memory).
    """
    if num_workers == 1:
        yield from map(function, items)
        return
    if threads:
        with ThreadPoolExecutor(num_workers) as pool:
            yield from _windowed_map(pool, function, items, 2 * num_workers)
        return
    with ProcessPoolExecutor(num_workers, _start_method(), _set_function, (function,)) as pool:
        try:
            yield from _windowed_map(pool, _call_function, items, 2 * num_workers)
        except BrokenProcessPool:
            message = (
                f"one of {num_workers} worker processes died; where memory ran out, use fewer num_workers"
            )
            raise DataError(message) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def threaded_map(
    function: Callable[[T], R], items: Sequence[T], num_threads: int | None, size: Callable[[T], int]
) -> list[R]:
    """Return `list(map(function, items))`, computed by threads, for a function that releases the GIL.

    Items are grouped by size, several groups per thread, so that all threads have work to the end.

    Args:
        num_threads: None: one per core.
        size: amount of work of an item.
    """
    num_threads = num_threads or available_cores()
    if num_threads == 1 or len(items) < 2:
        return list(map(function, items))
    min_size = 1 + sum(map(size, items)) // (8 * num_threads)
    groups = _groups(items, min_size, size)
    with ThreadPoolExecutor(num_threads) as pool:
        return [
            result
            for results in pool.map(lambda group: list(map(function, group)), groups)
            for result in results
        ]


def _groups(items: Sequence[T], min_size: int, size: Callable[[T], int]) -> list[list[T]]:
    """Divide items, in order, into lists of a total size of at least `min_size`; the last may be smaller."""
    groups: list[list[T]] = [[]]
    total = 0
    for item in items:
        groups[-1].append(item)
        total += size(item)
        if total >= min_size:
            groups.append([])
            total = 0
    return groups


def _windowed_map(
    pool: Executor, function: Callable[[Any], Any], items: Iterable[Any], size: int
) -> Iterator[Any]:
    """Yield results in order, with at most `size` items submitted and not yet yielded."""
    pending: deque[Future[Any]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= size:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _set_function(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A worker whose parent was killed would wait for work forever and keep inherited descriptors open:
    # processes connected with the parent would not notice that it is gone.
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _call_function(item: Any) -> Any:
    return _function(item)


_function: Callable[[Any], Any]
"""In a worker process: the function that is applied to every item."""


def _start_method() -> multiprocessing.context.BaseContext:
    # A fork starts in a millisecond and needs no `if __name__ == "__main__"` in the caller's script, but a
    # lock that another thread holds stays locked forever in the child: fork only if there is no other thread.
    safe = sys.platform == "linux" and threading.active_count() == 1
    return multiprocessing.get_context("fork" if safe else "spawn")
