"""Messages for the person at the terminal: lines on stderr that do not disturb progress bars and never raise.

There are no levels, handlers or formats to configure. stdout is for metrics (see console.py).
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def say(message: str) -> None:
    """Write one line to stderr."""
    tell(message + "\n")


def tell(text: str) -> None:
    """Write text to stderr unchanged: part of a line, or several lines."""
    if sys.stderr is None or sys.stderr.closed:
        return
    try:
        write(sys.stderr, text)
    except OSError:
        silence(sys.stderr)


def warn(message: str) -> None:
    """Write one line to stderr, marked as a warning."""
    say(f"warning: {message}")


def write(stream: TextIO, text: str) -> None:
    """Write and flush; a progress bar on the same terminal is cleared and drawn again below.

    Raises:
        OSError: the stream cannot be written to, such as a pipe without a reader.
    """
    # If tqdm has not been imported there is no bar, and no reason to import it.
    tqdm = sys.modules.get("tqdm")
    bars = tqdm.tqdm.external_write_mode(file=stream) if tqdm else contextlib.nullcontext()
    with bars:
        stream.write(text)
        stream.flush()


def silence(stream: TextIO) -> None:
    """Redirect the descriptor of a broken stream to the null device.

    Python flushes the buffer of the stream at exit; without this, that flush fails too and the finished
    process ends with a message and exit status 120.
    """
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a stream in memory, without a file
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
