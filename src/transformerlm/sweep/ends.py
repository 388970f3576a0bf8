"""How the process of a run has ended, judged by its exit status and by the folder of the run."""

from __future__ import annotations

import signal
from pathlib import Path

from transformerlm.control.heartbeat import COMPLETE, read_heartbeat
from transformerlm.errors import ConfigError, NumericalError, one_line
from transformerlm.logging import names, read_history
from transformerlm.storage.lock import is_locked
from transformerlm.sweep.journal import Outcome, Result

METRICS = {"val_bits_per_byte": names.VAL_BITS_PER_BYTE, "val_loss": names.VAL_LOSS}
"""[sweep].metric -> name in metrics.jsonl."""
OUTCOMES: dict[int, Outcome] = {ConfigError.exit_status: "refused", NumericalError.exit_status: "diverged"}
"""Exit status -> outcome; others than these, and than 0, are failures."""
MAX_MESSAGE_BYTES = 2**14
FIRST_SIGNAL_STATUS = 128
"""An exit status above this is that of a process that a signal has asked to end."""


def newest_step(run_dir: Path) -> int:
    """Return the step of the newest checkpoint, from which a killed run goes on; 0 without one."""
    steps = (path.parent.name for path in (run_dir / "checkpoints").glob("step_*[0-9]/manifest.json"))
    return max((int(name.removeprefix("step_")) for name in steps), default=0)


def is_complete(run_dir: Path) -> bool:
    """Return True if the run has ended as it should, and nobody works on it."""
    heartbeat = read_heartbeat(run_dir)
    return heartbeat is not None and heartbeat.phase == COMPLETE and not is_locked(run_dir)


def is_to_go_on(status: int) -> bool:
    """Return True for a process that was killed, or asked to stop: another one goes on with the run."""
    return status < 0 or status > FIRST_SIGNAL_STATUS


def result_of_complete(run_dir: Path, metric: str) -> Result:
    """Return the result of a run whose process has ended with status 0."""
    from transformerlm.report.metrics import read_metrics

    series = read_metrics(run_dir / "metrics.jsonl")
    step, seconds = series.last_step, _seconds(run_dir)
    found = series[METRICS[metric]]
    if not len(found):
        reason = "no validation, since no text is held out: [data].validation_fraction"
        return Result("failed", step=step, seconds=seconds, reason=reason)
    if found.lowest is None:
        return Result("diverged", step=step, seconds=seconds, reason="no validation has a finite loss")
    return Result("complete", found.lowest[1], step, seconds)


def result_of_failed(run_dir: Path, status: int, messages: Path) -> Result:
    """Return the result of a run whose process has ended with another status than 0."""
    reason = last_line(messages) or f"exit status {status}"
    return Result(OUTCOMES.get(status, "failed"), None, newest_step(run_dir), _seconds(run_dir), reason)


def result_of_killed(run_dir: Path, status: int, attempts: int) -> Result:
    """Return the result of a run that was killed too often."""
    number = -status if status < 0 else status - FIRST_SIGNAL_STATUS
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    step = newest_step(run_dir)
    memory = "; perhaps there is too little memory" if number == signal.SIGKILL else ""
    reason = f"ended by {name} {attempts} times after step {step}{memory}"
    return Result("failed", None, step, _seconds(run_dir), reason)


def last_line(messages: Path) -> str:
    """Return the last line that a process has printed, as printable text; "" if there is none."""
    try:
        with messages.open("rb") as file:
            file.seek(max(0, messages.stat().st_size - MAX_MESSAGE_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    written = [line.strip() for line in lines if line.strip()]
    return one_line(written[-1])[:400] if written else ""


def result_of_scores(scores: Path) -> Result:
    """Return the result of scoring: bits per byte."""
    from transformerlm.sweep.finals import read_scores

    return Result("complete", read_scores(scores).bits_per_byte.value)


def _seconds(run_dir: Path) -> float:
    """Return the time that the run has taken by its own clock; 0 if it has not come to its end."""
    clock = (read_history(run_dir) or [{}])[-1].get("clock")
    spent = clock.values() if isinstance(clock, dict) else ()
    return round(sum(float(kind[0]) for kind in spent), 3)
