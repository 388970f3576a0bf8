"""Commands under torchrun: ranks are connected, only rank 0 prints, and all end together."""

from __future__ import annotations

import contextlib
import os
import signal
import types
from collections.abc import Callable, Iterator

from transformerlm.cli.command import report
from transformerlm.cli.error_report import INTERRUPTED
from transformerlm.distributed.collectives import ranks_from_environment
from transformerlm.distributed.ranks import Backend
from transformerlm.errors import TransformerLMError
from transformerlm.kernels.threads import sleep_soon


def on_ranks(command: Callable[[], int], backend: Backend = "gloo") -> int:
    """Run a command on this rank and return its exit status; without torchrun, just run it.

    Only rank 0's output is shown: the others would print the same.

    Args:
        backend: that of `Ranks.connected`.
    """
    try:
        ranks = ranks_from_environment()
        if ranks.size == 1:
            return command()
        sleep_soon()  # connecting the ranks imports PyTorch
        with _terminated_by_exception(), ranks.connected(backend), _silence(not ranks.is_main):
            status = command()
            if status != INTERRUPTED:  # may occur at any place, and the other ranks do not know of it
                # torchrun ends all ranks as soon as one has failed: wait until rank 0 has printed the reason.
                ranks.leave()
            return status
    except TransformerLMError as error:  # raised before the command began: the command reports its own errors
        return report(error, debug=False)


@contextlib.contextmanager
def _silence(is_silent: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if is_silent:
            nowhere = stack.enter_context(open(os.devnull, "w"))  # noqa: PTH123
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


@contextlib.contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """Turn SIGTERM, by which torchrun ends ranks, into an exception, so that `finally` blocks clean up."""

    def terminate(number: int, frame: types.FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # the cleanup must not be interrupted
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
