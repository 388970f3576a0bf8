"""Standard streams and file names as the commands need them, whatever they are started from."""

from __future__ import annotations

import io
import os
import sys

from transformerlm.logging.terminal import silence


def ready_streams(*, restart: bool) -> None:
    """Open the standard streams that are closed; see to it that names of files are UTF-8.

    A program started with `>&-` has no stdout, and the next file that it opens gets that number: what
    anybody prints would then land in a checkpoint.

    Args:
        restart: whether this may be done by starting the same command again, in Python's UTF-8 mode.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(opened, True)
    # Closed again by nobody: they last as long as the program.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    is_utf8 = sys.getfilesystemencoding().lower().replace("-", "") == "utf8"
    if restart and not is_utf8 and "WORLD_SIZE" not in os.environ:
        # LC_ALL=C with PYTHONUTF8=0, say: a folder called "été" could not even be opened. Not under torchrun,
        # where this process may have been introduced to the others already.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def print_text(text: str = "") -> None:
    """Write to stdout and flush it: of what fails only when the interpreter ends, nobody hears.

    In UTF-8 whatever the terminal's encoding is: TOML has no other.

    Raises:
        OSError: where it fails; nothing more is tried to be written then.
    """
    if sys.stdout.closed:
        return
    try:
        if text and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        silence(sys.stdout)
        error.filename = "stdout"
        raise
