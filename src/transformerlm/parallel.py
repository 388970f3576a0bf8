"""Ordered maps over worker processes and threads.

A worker process is a Python of its own, which imports this package and no more. It does not run the caller's
script again, as multiprocessing's `spawn` does; it inherits no locks that other threads hold, as with `fork`;
and it needs no semaphores, which systems without /dev/shm lack.
"""

from __future__ import annotations

import _thread
import multiprocessing
import os
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from queue import SimpleQueue
from typing import Any, Self, TypeVar

from transformerlm.errors import DataError
from transformerlm.limits import available_cores

T = TypeVar("T")
R = TypeVar("R")
_Finished = SimpleQueue[tuple[int, list[R] | BaseException]]
"""Index of each group that a thread has finished, with its results or an error."""


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], num_workers: int, *, threads: bool = False
) -> Iterator[R]:
    """Yield `map(function, items)`, computed by processes or threads, in the order of the items.

    `function` is sent to each process once, and the items one by one; all must pickle, and must not be of
    the caller's script. At most `2 * num_workers` items are under way at a time, so `items` may be an endless
    stream. With one worker the calling thread does the work and nothing is started. Where processes cannot be
    started, threads do their work.

    Raises:
        DataError: a worker process died (most often: the machine ran out of memory).
    """
    if num_workers == 1:
        yield from map(function, items)
        return
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(num_workers))
        call = function if threads else stack.enter_context(_WorkerProcesses(function, num_workers))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)  # left first, and in any case
        yield from _windowed_map(pool, call, items, 2 * num_workers)


def threaded_map(
    function: Callable[[T], R], items: Sequence[T], num_threads: int | None, size: Callable[[T], int]
) -> list[R]:
    """Return `list(map(function, items))`, computed by threads; arguments as in `threaded_groups`."""
    return threaded_groups(lambda group: list(map(function, group)), items, num_threads, size)


def threaded_groups(
    function: Callable[[Sequence[T]], list[R]],
    items: Sequence[T],
    num_threads: int | None,
    size: Callable[[T], int],
    min_size: int = 1,
) -> list[R]:
    """Return the results for all items, computed by threads, for a function that releases the GIL.

    Items are grouped by size, several groups per thread, so that all threads have work to the end. The
    calling thread is one of them.

    Args:
        function: returns the results for some items, in order.
        num_threads: largest number of threads. None: one per core.
        size: amount of work of an item.
        min_size: least amount of work for which a thread is started.
    """
    total = sum(map(size, items))
    num_threads = min(num_threads or available_cores(), len(items), max(1, total // min_size))
    if num_threads <= 1:
        return function(items)
    groups = in_groups(items, 1 + total // (8 * num_threads), size)
    waiting = enumerate(groups)  # each `next` of it is one step for the interpreter: threads may share it
    finished: _Finished[R] = SimpleQueue()
    for _ in range(num_threads - 1):
        with suppress(RuntimeError):  # no more threads
            # Not `threading.Thread`, whose `start` waits until the thread runs: on a busy machine this one
            # has done all by then.
            _thread.start_new_thread(_work_beside, (function, waiting, finished))
    return _with_own_share(function, waiting, len(groups), finished)


def in_groups(items: Sequence[T], min_size: int, size: Callable[[T], int]) -> list[list[T]]:
    """Divide items, in order, into lists of a total size of at least `min_size`; the last may be smaller."""
    groups: list[list[T]] = [[]]
    total = 0
    for item in items:
        groups[-1].append(item)
        total += size(item)
        if total >= min_size:
            groups.append([])
            total = 0
    return groups if groups[-1] else groups[:-1]


def _work_beside(
    function: Callable[[Sequence[T]], list[R]],
    waiting: Iterator[tuple[int, Sequence[T]]],
    finished: _Finished[R],
) -> None:
    """Work on waiting groups until there are none."""
    for index, group in waiting:
        try:
            finished.put((index, function(group)))
        except BaseException as error:
            finished.put((index, error))


def _with_own_share(
    function: Callable[[Sequence[T]], list[R]],
    waiting: Iterator[tuple[int, Sequence[T]]],
    num_groups: int,
    finished: _Finished[R],
) -> list[R]:
    """Work on waiting groups, and return the results of all when other threads have finished theirs."""
    results: dict[int, list[R]] = {}
    own = 0
    try:
        for index, group in waiting:
            own += 1
            results[index] = function(group)
    finally:
        own += sum(1 for _ in waiting)  # after an error nobody begins another
        others = [finished.get() for _ in range(num_groups - own)]
    for index, found in others:
        if isinstance(found, BaseException):
            raise found
        results[index] = found
    return [result for index in range(num_groups) for result in results[index]]


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


class _WorkerProcesses:
    """A function that threads call, and each call is made in a worker process.

    As many are started as calls are made at the same time. Leaving the context kills them.
    """

    def __init__(self, function: Callable[[Any], Any], max_number: int) -> None:
        self._function, self._max_number = function, max_number
        self._all: list[_Worker] = []
        self._idle: deque[_Worker] = deque()
        self._lock = threading.Lock()
        self._can_start = _has_own_python()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._can_start = False
            for worker in self._all:
                worker.kill()

    def __call__(self, item: Any) -> Any:
        worker = self._take()
        if worker is None:
            return self._function(item)
        try:
            succeeded, result = worker.call(item)
        except (EOFError, OSError):
            status = worker.kill()
            what = f"one of {self._max_number} worker processes died (exit status {status})"
            raise DataError(f"{what}; where memory ran out, use fewer num_workers") from None
        self._idle.append(worker)
        if not succeeded:
            raise result
        return result

    def _take(self) -> _Worker | None:
        """Return an idle worker, or a new one; None where none can be started."""
        with suppress(IndexError):
            return self._idle.pop()
        with self._lock:
            if not self._can_start:
                return None
            try:
                worker = _Worker(self._function)
            except OSError:  # no more processes or files
                self._can_start = False
                return None
            self._all.append(worker)
            return worker


class _Worker:
    """A worker process, as its parent has it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        with theirs:
            start = "import sys; sys.path[:] = sys.argv[1:]; from transformerlm.parallel import work; work()"
            command = [sys.executable, "-c", start, *map(str, sys.path)]
            # Ctrl-C is for the parent; a process group of its own does not get it from the terminal.
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), process_group=0)
        self._function = function
        self._is_ready = False

    def call(self, item: Any) -> tuple[bool, Any]:
        """Return True and the result for an item, or False and the error; EOFError, OSError if it died."""
        if not self._is_ready:
            self._connection.send(self._function)
            self._is_ready = True
        self._connection.send(item)
        return self._connection.recv()  # type: ignore[no-any-return]

    def kill(self) -> int:
        """End the process, and return its exit status."""
        self._process.kill()
        return self._process.wait()


def _has_own_python() -> bool:
    """Return True if `sys.executable` is a Python, and not a program that has one within."""
    name = os.path.basename(sys.executable or "").lower()  # noqa: PTH119
    return os.name == "posix" and "python" in name and not getattr(sys, "frozen", False)


def work() -> None:
    """Do the work of a worker process: apply a function to items. Both come over its standard input."""
    from multiprocessing.connection import Connection

    with suppress(EOFError, ConnectionError), Connection(0) as parent:  # until the parent is gone
        function = parent.recv()
        while True:
            parent.send(_outcome(function, parent.recv()))


def _outcome(function: Callable[[Any], Any], item: Any) -> tuple[bool, Any]:
    try:
        return True, function(item)
    except Exception as error:
        error.add_note(traceback.format_exc())
        return False, error
