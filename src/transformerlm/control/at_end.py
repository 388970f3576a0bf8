"""The user's own command at the end of a run, [logging].on_end: its environment, time limit and failures."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from transformerlm.control.run_control import Outcome
from transformerlm.errors import one_line, shortened

PREFIX = "TRANSFORMERLM_"
"""Beginning of the names of the variables."""


def run_at_end(
    command: str, time_limit: float, run_dir: Path, outcome: Outcome, say: Callable[[str], object]
) -> None:
    """Run a shell command with the outcome of a run in its environment; a failure is said, never raised.

    What it prints goes to stderr: stdout belongs to the metrics.

    Args:
        time_limit: seconds after which it is ended, with all that it has started.
        say: receives a line if it fails.
    """
    what = f"warning: [logging].on_end: {shortened(one_line(command))}"
    environment = {**os.environ, **variables(run_dir, outcome)}
    try:
        status = _run(command, environment, time_limit)
    except subprocess.TimeoutExpired:
        say(f"{what}: not done within {time_limit:g} s, and ended")
    except KeyboardInterrupt:
        say(f"{what}: interrupted")
    except OSError as error:
        say(f"{what}: cannot be started: {error.strerror}")
    else:
        if status:
            how = f"exit status {status}" if status > 0 else f"ended by signal {-status}"
            say(f"{what}: {how}")


def variables(run_dir: Path, outcome: Outcome) -> dict[str, str]:
    """Return the environment variables that describe an outcome."""
    bits = "" if outcome.bits_per_byte is None else f"{outcome.bits_per_byte:.6g}"
    values = {
        "STATUS": outcome.status,
        "RUN_DIR": str(run_dir.absolute()),
        "STEPS": str(outcome.step),
        "BITS_PER_BYTE": bits,
        "REASON": one_line(outcome.reason),
    }
    return {f"{PREFIX}{name}": value for name, value in values.items()}


def _run(command: str, environment: dict[str, str], time_limit: float) -> int:
    is_posix = os.name == "posix"
    process = subprocess.Popen(
        command,
        shell=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=_stderr(),
        start_new_session=is_posix,  # a group of its own, which can be ended as a whole
    )
    try:
        return process.wait(time_limit)
    except BaseException:
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _stderr() -> int:
    """Return the descriptor of stderr; of the null device where there is none."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # closed, or a stream in memory
        return subprocess.DEVNULL
