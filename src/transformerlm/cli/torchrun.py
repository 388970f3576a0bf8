"""What a command does where torchrun starts it: the ranks meet, the first one speaks, all end together."""

from __future__ import annotations

import contextlib
import os
import signal
import types
from collections.abc import Callable, Iterator
from typing import Literal

from transformerlm.cli.command import report
from transformerlm.distributed.collectives import part, process_group
from transformerlm.distributed.world import World
from transformerlm.errors import TransformerLMError

_INTERRUPTED = 130  # at any place, and not agreed with the other ranks


def on_ranks(command: Callable[[], int], backend: Literal["gloo", "nccl"] = "gloo") -> int:
    """Run a command, which returns its exit status, on this rank; without torchrun, just run it.

    Rank 0's output is the output: the others would print the same, or what it has been told.

    Args:
        backend: that of `process_group`.
    """
    try:
        world = World.from_environment()
        if world.size == 1:
            return command()
        with _terminated_by_exception(), process_group(world, backend), _silence_but_of_rank_0(world):
            status = command()
            if status != _INTERRUPTED:
                # torchrun ends all ranks as soon as one has failed: that one waits until rank 0 has said why.
                part(world)
            return status
    except TransformerLMError as error:  # before the command began: what it raises it has reported
        return report(error, debug=False)


@contextlib.contextmanager
def _silence_but_of_rank_0(world: World) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if not world.is_main:
            nowhere = stack.enter_context(open(os.devnull, "w"))  # noqa: PTH123
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


@contextlib.contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """SIGTERM, by which torchrun ends ranks, passes through `finally`: nothing half-written is left."""

    def terminate(number: int, frame: types.FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # what is cleaned up now is not interrupted
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
