"""An ordered map over worker processes, in bounded memory; it knows nothing of text or tokens."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from transformerlm.errors import DataError

T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Cores that this process may run on (a container's or taskset's share, not the whole machine's)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(function: Callable[[T], R], items: Iterable[T], num_workers: int) -> Iterator[R]:
    """`map(function, items)` on `num_workers` processes, results in the order of the items.

    `function` travels to each worker once, and the items one by one; all must pickle. At most
    `2 * num_workers` items are under way at a time, so `items` may be an endless stream. One worker
    means this process: nothing is started.

    Raises:
        DataError: when a worker dies (most often: the machine ran out of memory).
    """
    if num_workers == 1:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(num_workers, _start_method(), _set_function, (function,)) as pool:
        try:
            yield from _window(pool, items, 2 * num_workers)
        except BrokenProcessPool:
            message = (
                f"one of {num_workers} worker processes died; where memory ran out, use fewer num_workers"
            )
            raise DataError(message) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _window(pool: ProcessPoolExecutor, items: Iterable[Any], size: int) -> Iterator[Any]:
    pending: deque[Future[Any]] = deque()
    for item in items:
        pending.append(pool.submit(_call_function, item))
        if len(pending) >= size:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _set_function(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function


def _call_function(item: Any) -> Any:
    return _function(item)


_function: Callable[[Any], Any]
"""In a worker process: what it does with every item."""


def _start_method() -> multiprocessing.context.BaseContext:
    # A fork starts in a millisecond and needs no `if __name__ == "__main__"` in the caller's script,
    # but a forked copy of another thread's lock stays locked for ever: only where there is no thread.
    safe = sys.platform == "linux" and threading.active_count() == 1
    return multiprocessing.get_context("fork" if safe else "spawn")
