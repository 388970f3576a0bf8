"""Report of an error: a line on stderr for the user, an exit status for scripts."""

from __future__ import annotations

import contextlib
import sys
import traceback

from transformerlm.errors import OutputError, TransformerLMError
from transformerlm.logging.terminal import say, silence
from transformerlm.schema import one_line
from transformerlm.storage.files import system_error

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as in shells."""


def report(error: BaseException, *, debug: bool) -> int:
    """Print one line per problem to stderr, and return the exit status.

    Args:
        debug: print the traceback before it.
    """
    if debug:
        with contextlib.suppress(OSError):
            traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        say("interrupted")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError) and _is_about_stdout(error):  # as in `... | head`
        silence(sys.stdout)
        return 0
    if isinstance(error, TransformerLMError):
        for line in error.lines:
            say(one_line(line))
        return error.exit_status
    say(one_line(system_error(error) if isinstance(error, OSError) else str(error)))
    return OutputError.exit_status


def _is_about_stdout(error: BrokenPipeError) -> bool:
    """Return True if the reader of stdout is gone, rather than that of another pipe or a connection."""
    try:
        sys.stdout.flush()  # the text that could not be written is still in its buffer
    except BrokenPipeError:
        return True
    return bool(error.filename == "stdout")
