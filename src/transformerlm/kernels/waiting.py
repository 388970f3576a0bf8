"""Waiting of kernel threads for each other: poll for some microseconds, let other threads run, then sleep.

A thread that polls without end keeps its processor from the very thread that it waits for, if the machine has
other work too. Where there is no futex, it does not sleep, but lets other threads run between polls.

Importing this file imports numba, which is needed only to compile: see library.py.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from transformerlm.kernels.primitives import compiled, i64
from transformerlm.kernels.target import FUTEX

MAX_POLLS = 50
"""Polls before a thread lets others run: some microseconds, in which threads of equal work arrive."""
MAX_YIELDS = 100
"""Times that it lets others run before it sleeps: where there are none, some tens of microseconds."""
_WAIT_PRIVATE, _WAKE_PRIVATE, _ALL = 128, 129, 2**31 - 1
"""Operations of Linux's futex for the threads of one process, and a number of threads."""


@intrinsic  # type: ignore[untyped-decorator]
def add_atomically(context: Any, memory: Any, at: Any, number: Any) -> Any:
    """memory[at] += number, atomically; returns the value before."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.gep(arguments[0], [arguments[1]])
        return builder.atomic_rmw("add", place, arguments[2], "seq_cst")

    return types.int64(types.CPointer(types.int64), types.int64, types.int64), build


@intrinsic  # type: ignore[untyped-decorator]
def load_acquire(context: Any, memory: Any, at: Any) -> Any:
    """Atomic load of memory[at] with acquire ordering."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(builder.gep(arguments[0], [arguments[1]]), "acquire", 8)

    return types.int64(types.CPointer(types.int64), types.int64), build


@intrinsic  # type: ignore[untyped-decorator]
def pause(context: Any) -> Any:
    """Ease polling, where the processor has an instruction for it."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if platform.machine() == "x86_64":
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), build


@intrinsic  # type: ignore[untyped-decorator]
def yield_processor(context: Any) -> Any:
    """Let the operating system run another thread."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _yield_processor(builder)
        return context.get_dummy_value()

    return types.void(), build


@intrinsic  # type: ignore[untyped-decorator]
def sleep_while(context: Any, memory: Any, at: Any, value: Any) -> Any:
    """Sleep until woken, if memory[at] is `value`; may return earlier."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if FUTEX is None:
            _yield_processor(builder)
        else:
            memory, at, value = arguments
            _futex(builder, builder.gep(memory, [at]), _WAIT_PRIVATE, value)
        return context.get_dummy_value()

    return types.void(types.CPointer(types.int64), types.int64, types.int64), build


@intrinsic  # type: ignore[untyped-decorator]
def wake_all(context: Any, memory: Any, at: Any) -> Any:
    """Wake all threads that sleep at memory[at]."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if FUTEX is not None:
            place = builder.gep(arguments[0], [arguments[1]])
            _futex(builder, place, _WAKE_PRIVATE, ir.IntType(64)(_ALL))
        return context.get_dummy_value()

    return types.void(types.CPointer(types.int64), types.int64), build


def _yield_processor(builder: Any) -> None:
    kind = ir.FunctionType(ir.IntType(32), [])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])


def _futex(builder: Any, place: Any, operation: int, value: Any) -> None:
    """Call Linux's futex; it compares the lower 32 bits of the number at `place`."""
    number = ir.IntType(64)
    kind = ir.FunctionType(number, [number], var_arg=True)
    function = cgutils.get_or_insert_function(builder.module, kind, "syscall")
    address = builder.ptrtoint(place, number)
    builder.call(function, [number(FUTEX), address, number(operation), value, number(0)])


@compiled
def wait_for_change(memory, at, value, sleepers):
    """Wait until memory[at] is no longer `value`; memory[sleepers] counts the threads that sleep there."""
    for _ in range(MAX_POLLS):
        if load_acquire(memory, at) != value:
            return
        pause()
    for _ in range(MAX_YIELDS):
        if load_acquire(memory, at) != value:
            return
        yield_processor()
    add_atomically(memory, sleepers, i64(1))
    while load_acquire(memory, at) == value:
        sleep_while(memory, at, value)
    add_atomically(memory, sleepers, i64(-1))


@compiled
def add_and_wake(memory, at, number, sleepers):
    """memory[at] += number, and wake the threads that sleep there; returns the value before."""
    before = add_atomically(memory, at, number)
    # A thread counts itself before it looks at memory[at] again: it sees the new number, or is seen here.
    if add_atomically(memory, sleepers, i64(0)) != 0:
        wake_all(memory, at)
    return before


@compiled
def barrier(state, parts):
    """Wait until all threads have arrived.

    `state`: threads that have arrived, completed barriers, and sleepers (generation_layout.BARRIER_SIZE).
    """
    if parts == 1:
        return
    completed = load_acquire(state, i64(1))
    if add_atomically(state, i64(0), i64(1)) == parts - 1:
        add_atomically(state, i64(0), -parts)
        add_and_wake(state, i64(1), i64(1), i64(2))
    else:
        wait_for_change(state, i64(1), completed, i64(2))
