"""A team of threads for kernels: the loop that each thread runs, and the call that gives them a kernel.

`teams.Team` starts the threads. Between calls they poll briefly for work and then sleep (waiting.py).

Importing this file imports numba, which is needed only to compile: see library.py.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from transformerlm.kernels.primitives import OPTIONS, compiled, i64
from transformerlm.kernels.waiting import add_and_wake, load_acquire, wait_for_change

__all__ = ["ENTRIES", "OPTIONS", "parameters"]

CALLS, CALLS_SLEEPERS, PENDING, PENDING_SLEEPERS, KERNEL, FRAME, SIZE = (i64(at) for at in range(7))
"""Positions in a team's state: calls made, threads that still work on the last one, and its kernel."""


@intrinsic  # type: ignore[untyped-decorator]
def call(context: Any, kernel: Any, frame: Any, part: Any, parts: Any) -> Any:
    """Run the kernel at an address (compile.py says how it takes its arguments)."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, pointer = ir.IntType(64), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(number, [pointer, number, number])
        kernel, frame, part, parts = arguments
        function = builder.inttoptr(kernel, kind.as_pointer())
        return builder.call(function, [builder.inttoptr(frame, pointer), part, parts])

    return types.int64(*[types.int64] * 4), build


def work(state, thread):
    """Do part `thread` of every call of the team, until one has no kernel."""
    calls = i64(0)
    while True:
        wait_for_change(state, CALLS, calls, CALLS_SLEEPERS)
        calls += 1
        kernel = state[KERNEL]
        if kernel != 0:
            call(kernel, state[FRAME], thread, state[SIZE])
        add_and_wake(state, PENDING, i64(-1), PENDING_SLEEPERS)
        if kernel == 0:
            return 0


def run(state, kernel, frame, size):
    """Run a kernel on the team's `size` threads, of which the caller is one; without a kernel they end."""
    state[KERNEL], state[FRAME], state[SIZE], state[PENDING] = kernel, frame, size, size - 1
    add_and_wake(state, CALLS, i64(1), CALLS_SLEEPERS)
    if kernel != 0:
        call(kernel, frame, 0, size)
    wait_for_all(state)
    return 0


@compiled
def wait_for_all(state):
    """Wait until no thread works any more."""
    pending = load_acquire(state, PENDING)
    while pending != 0:
        wait_for_change(state, PENDING, pending, PENDING_SLEEPERS)
        pending = load_acquire(state, PENDING)


ENTRIES: dict[str, Callable[..., int]] = {"work": work, "run": run}
"""Kernels by name. Each returns 0."""


def parameters(name: str) -> dict[str, str]:
    """Return the parameters of a kernel in order with their types."""
    return {key: "i64*" if key == "state" else "i64" for key in signature(ENTRIES[name]).parameters}
