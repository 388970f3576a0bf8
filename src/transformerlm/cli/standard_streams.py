"""Standard streams and encodings, set up independently of how a command was started."""

from __future__ import annotations

import io
import os
import sys

from transformerlm.logging.terminal import silence


def prepare_streams(*, restart: bool) -> None:
    """Open the standard streams that are closed, and make the encoding of file names UTF-8.

    A program started with `>&-` has no stdout, and the next file that it opens gets that descriptor: printed
    text would then end up in a checkpoint.

    Args:
        restart: allow the process to be replaced by the same command in Python's UTF-8 mode.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(opened, True)
    # Never closed: they live as long as the process.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    is_utf8 = sys.getfilesystemencoding().lower().replace("-", "") == "utf8"
    if restart and not is_utf8 and "WORLD_SIZE" not in os.environ:
        # Under LC_ALL=C with PYTHONUTF8=0, for example, a folder called "été" could not even be opened. Not
        # under torchrun, where this process may be connected to the other ranks already.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def print_text(text: str = "") -> None:
    """Write to stdout and flush it, since a failure at interpreter exit would go unnoticed.

    Always in UTF-8, independent of the locale: TOML has no other encoding.

    Raises:
        OSError: the text cannot be written; stdout is then silenced.
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
