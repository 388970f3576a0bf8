"""How an error reaches the user: a line on stderr, and an exit status that tells a script."""

from __future__ import annotations

import contextlib
import sys
import traceback

from transformerlm.errors import OutputError, TransformerLMError
from transformerlm.logging.terminal import say, silence
from transformerlm.schema import one_line
from transformerlm.storage.files import system_error

INTERRUPTED = 130
"""128 + SIGINT, as shells count."""


def report(error: BaseException, *, debug: bool) -> int:
    """Print what went wrong for the user, and return the exit status that says it to a script."""
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
    """Whether stdout's reader has left; another pipe or a connection may have broken instead."""
    try:
        sys.stdout.flush()  # what could not be written is still to be
    except BrokenPipeError:
        return True
    return bool(error.filename == "stdout")
