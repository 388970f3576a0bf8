"""Processes that want the same thing made: one makes it, the others wait and find it made."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from transformerlm.distributed.collectives import while_rank_0_works
from transformerlm.distributed.world import World
from transformerlm.errors import LockedError
from transformerlm.progress import Reporter
from transformerlm.storage.files import full_disk_said, remove_dead_temporaries
from transformerlm.storage.lock import locked

POLL_SECONDS = 0.5


@contextlib.contextmanager
def held(directory: Path, reporter: Reporter, world: World) -> Iterator[None]:
    """Hold a folder, on rank 0 alone, however long it takes to get it; what killed ones left is removed.

    Who gets it may find that what it wanted to make is made.
    """
    with contextlib.ExitStack() as stack:
        with while_rank_0_works(world):
            if world.is_main:
                _wait_for(stack, directory, reporter)
                remove_dead_temporaries(directory)
        yield


def _wait_for(stack: contextlib.ExitStack, directory: Path, reporter: Reporter) -> None:
    is_said = False
    while True:
        try:
            with full_disk_said(directory):
                stack.enter_context(locked(directory))
            return
        except LockedError as error:
            if not is_said:
                reporter.say(f"{error.in_use}; waiting")
            is_said = True
            time.sleep(POLL_SECONDS)
