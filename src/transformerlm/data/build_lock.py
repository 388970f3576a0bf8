"""Lock on an output folder while its files are made: one process builds, others wait."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from transformerlm.errors import LockedError
from transformerlm.progress import Reporter
from transformerlm.storage.files import full_disk_as_output_error, remove_dead_temporaries
from transformerlm.storage.lock import locked

POLL_SECONDS = 0.5


@contextlib.contextmanager
def build_lock(directory: Path, reporter: Reporter) -> Iterator[None]:
    """Hold the lock of a folder, waiting for it if necessary; remove temporaries of killed processes.

    After waiting, the output may exist: check again.

    Raises:
        OutputError: the disk is full.
    """
    with contextlib.ExitStack() as stack:
        _acquire(stack, directory, reporter)
        remove_dead_temporaries(directory)
        yield


def _acquire(stack: contextlib.ExitStack, directory: Path, reporter: Reporter) -> None:
    is_reported = False
    while True:
        try:
            with full_disk_as_output_error(directory):
                stack.enter_context(locked(directory, reporter.say))
            return
        except LockedError as error:
            if not is_reported:
                reporter.say(f"{error.in_use}; waiting")
            is_reported = True
            time.sleep(POLL_SECONDS)
