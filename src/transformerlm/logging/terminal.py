"""Lines for the person at the terminal: they go to stderr, around progress bars, and never raise.

Not Python's logging framework: there are no levels, handlers or formats to configure. stdout belongs
to metrics (see console.py).
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def say(message: str) -> None:
    """One line on stderr."""
    tell(message + "\n")


def tell(text: str) -> None:
    """Text on stderr as it is: a part of a line, or several."""
    if sys.stderr is None or sys.stderr.closed:
        return
    try:
        write(sys.stderr, text)
    except OSError:
        silence(sys.stderr)


def warn(message: str) -> None:
    """One line on stderr, marked as a warning."""
    say(f"warning: {message}")


def write(stream: TextIO, text: str) -> None:
    """Write and flush. A progress bar on the same terminal steps aside for it.

    Raises:
        OSError: where the stream cannot be written to, such as a pipe that nobody reads any more.
    """
    # Where tqdm was never imported there is no bar, and no reason to import it.
    tqdm = sys.modules.get("tqdm")
    bars = tqdm.tqdm.external_write_mode(file=stream) if tqdm else contextlib.nullcontext()
    with bars:
        stream.write(text)
        stream.flush()


def silence(stream: TextIO) -> None:
    """Point a broken stream's descriptor at the null device.

    What is left in the stream's buffer is flushed when the interpreter exits; without this, that
    flush fails too and ends a finished program with a message and exit status 120.
    """
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a stream of Python's own, with no file behind it
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
