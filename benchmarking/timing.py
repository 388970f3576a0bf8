"""Timing harness of all benchmarks: contestants in separate processes, rounds in turn, medians.

A process can be given its number of threads, can be ended when it takes too long, and reports how much
memory it needed. What a contestant does is a function that the caller passes; nothing here depends on it.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self, TypeVar

from transformerlm.sweep.workers import end_with_parent

T = TypeVar("T")
Run = Callable[[], Any]
"""Function that does the work once."""
NO_BFLOAT16 = "bfloat16 is left out: this processor has no instructions for it"


class LeftOutError(Exception):
    """A contestant that takes no further part, with the reason."""


@dataclass(frozen=True)
class Task:
    """Task of a contestant. It is pickled for its process, so functions must be importable."""

    make: Callable[[], Run]
    """Function that prepares the work, outside the timing."""
    fingerprint: Callable[[Any], str]
    """Function that returns the fingerprint of a result: equal results have equal ones."""
    time_limit: float
    """Seconds after which its preparation or one round has failed."""
    is_new: bool = False
    """Prepare again before every round, so that nothing is cached between rounds."""
    calls: int = 1
    """Number of times that a round does the work; its time is that of the median call."""
    is_checked_every_round: bool = False
    """Take the fingerprint of every round's result, not only of the first."""


@dataclass(frozen=True)
class Memory:
    """Peaks since the process began, in bytes."""

    peak: int
    largest_child: int
    """Peak of its child processes that have ended. Pages may be shared: the two do not add up."""


@dataclass(frozen=True)
class Measured:
    """One round."""

    seconds: float
    cores: float
    """Processor time over wall time, other processes that were started and have ended included."""
    memory: Memory
    fingerprint: str
    """Fingerprint of the result, if requested."""


@dataclass(frozen=True)
class Outcome:
    """Result of a contestant in a race."""

    before: Memory
    """Memory after its task was prepared."""
    rounds: tuple[Measured, ...]
    """Measured rounds."""
    fingerprint: str
    """Fingerprint of the first round's result."""

    @property
    def seconds(self) -> list[float]:
        """Seconds of each measured round."""
        return [measured.seconds for measured in self.rounds]

    @property
    def median(self) -> float:
        """Median of the rounds, in seconds."""
        return statistics.median(self.seconds)

    def times_slower_than(self, other: Outcome) -> float:
        """Ratio of the medians."""
        return self.median / other.median


class Contestants:
    """A process for each contestant, started when it is first needed. Use it in a `with` block."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._processes: dict[str, Contestant] = {}

    def race(
        self, title: str, tasks: Mapping[str, Task], *, warmup_rounds: int = 0, rounds: int = 1
    ) -> dict[str, Outcome]:
        """Run the contestants' tasks in turn, a round each; one that fails is named and left out."""
        for name, task in tasks.items():
            if name not in self._processes:
                self._processes[name] = Contestant()
            self._processes[name].prepare(task)
        waited = {name: self._attempt(title, name, Contestant.wait) for name in tasks}
        before = {name: memory for name, memory in waited.items() if memory}
        measured: dict[str, list[Measured]] = {name: [] for name in before}
        for number in range(warmup_rounds + rounds):
            for name in list(measured):
                result = self._attempt(title, name, Contestant.run, number == 0)
                if result:
                    measured[name].append(result)
                else:
                    del measured[name]
        return {
            name: Outcome(before[name], tuple(results[warmup_rounds:]), results[0].fingerprint)
            for name, results in measured.items()
        }

    def _attempt(self, title: str, name: str, step: Callable[..., T], *arguments: object) -> T | None:
        try:
            return step(self._processes[name], *arguments)
        except LeftOutError as error:
            self._say(f"{title}: {name} {error}: left out")
            del self._processes[name]
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.close()


class Contestant:
    """A process that prepares a task and does it, one round per request."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # Not a daemon: a daemon may not start processes of its own.
        self._process = context.Process(target=serve, args=(theirs,))
        self._process.start()
        theirs.close()

    def prepare(self, task: Task) -> None:
        """Start the preparation of `task`, which replaces the last one; others prepare theirs meanwhile."""
        self._time_limit = task.time_limit
        self._send(task)

    def wait(self) -> Memory:
        """Wait until the task is prepared; return the peak memory until then.

        Raises:
            LeftOutError: after the task's time limit, or when the process fails. It is then ended.
        """
        memory: Memory = self._receive()
        return memory

    def run(self, check: bool) -> Measured:
        """Run one round; with `check` also compute the result's fingerprint.

        Raises:
            LeftOutError: as `wait` does.
        """
        self._send(check)
        measured: Measured = self._receive()
        return measured

    def _send(self, message: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has failed, which `_receive` reports
            self._connection.send(message)

    def _receive(self) -> Any:
        try:
            if self._connection.poll(self._time_limit):
                return self._connection.recv()
            reason = f"took more than {self._time_limit:g} seconds"
        except (EOFError, ConnectionResetError):
            reason = "failed (its own words are above)"
        self.close()
        raise LeftOutError(reason)

    def close(self) -> None:
        """End the process and those it has started, whatever they are doing. Closing twice is allowed."""
        if self._connection.closed:
            return
        self._connection.close()
        assert self._process.pid
        with contextlib.suppress(ProcessLookupError):  # it has not come to leading a group yet
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(connection: Connection[Any, Any]) -> None:
    """Main loop of a contestant's process: prepare the tasks that it receives, and do their rounds."""
    # A group of its own: it is ended together with what it has started, and Ctrl-C is handled by the parent.
    os.setsid()
    task: Task | None = None
    run: Run | None = None
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        if isinstance(message, Task):
            run = None  # frees what the last task holds
            task, run = message, prepared(message)
            connection.send(memory())
        else:
            assert task
            connection.send(measure(task, run or prepared(task), check=message))
            run = None if task.is_new else run


def prepared(task: Task) -> Run:
    """The task's work, ready to be done."""
    run = task.make()
    gc.collect()
    return run


def measure(task: Task, run: Run, *, check: bool) -> Measured:
    """Do one round."""
    seconds = []
    with quiet():
        cpu_start, start = cpu_seconds(), time.perf_counter()
        for _ in range(task.calls):
            result = None  # freed outside the timing
            call_start = time.perf_counter()
            result = run()
            seconds.append(time.perf_counter() - call_start)
        cores = (cpu_seconds() - cpu_start) / (time.perf_counter() - start)
    fingerprint = task.fingerprint(result) if check or task.is_checked_every_round else ""
    return Measured(statistics.median(seconds), cores, memory(), fingerprint)


def timed_command(
    command: list[str], folder: Path, variables: Mapping[str, str] | None = None
) -> tuple[float, str]:
    """Run a command in a folder: seconds of its whole process, and what it printed.

    The command is killed if this process is, on Linux: it would disturb what is measured next.

    Args:
        variables: environment variables to set or replace.

    Raises:
        subprocess.CalledProcessError: its status is not 0; what it said is on stderr.
    """
    start = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(variables or {})},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=end_with_parent() if sys.platform == "linux" else None,
    )
    return time.perf_counter() - start, done.stdout


def nothing(result: object) -> str:
    """Return the fingerprint of a result that is not compared."""
    return ""


def has_bfloat16(device: str) -> bool:
    """Return True if `[runtime].device` computes products in bfloat16, without an emulation."""
    from transformerlm.runtime import resolve_device
    from transformerlm.runtime.precision import precision_of
    from transformerlm.runtime.speed import has_emulation, probe

    resolved = resolve_device(device)
    if resolved.type != "cpu":
        return precision_of(resolved) == "bfloat16"
    return not has_emulation(probe(("float32", "bfloat16")))


def cpu_seconds() -> float:
    """Return the processor time of all threads of this process, and of its children that have ended."""
    import resource

    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def memory() -> Memory:
    """Return the peaks so far."""
    import resource

    return Memory(own_peak(), maximum_rss(resource.RUSAGE_CHILDREN))


def own_peak() -> int:
    """Return the peak memory of this process, in bytes."""
    import resource

    # Linux counts in getrusage also what the parent had when it started this process.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return maximum_rss(resource.RUSAGE_SELF)


def maximum_rss(who: int) -> int:
    """Return getrusage's ru_maxrss, in bytes."""
    import resource

    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard output to stdout and stderr: messages of Rust libraries cannot be turned off."""
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        null = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, null)
        for descriptor in (1, 2):
            saved = os.dup(descriptor)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, descriptor)
            os.dup2(null, descriptor)
        yield
