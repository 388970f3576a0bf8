"""The state of a run, read from its folder by any process, and the runs below a folder.

Whether a run is alive is judged by the lock of its folder, which the system releases when the process ends,
however it ends. What it does is in its heartbeat, losses and rates are in the end of `metrics.jsonl`.
Reading changes nothing in the folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformerlm.control.heartbeat import (
    COMPLETE,
    CONTROL_DIR,
    ENDS,
    FAILED,
    STOPPED,
    TRAINING,
    Heartbeat,
    read_heartbeat,
    status_path,
)
from transformerlm.logging import names
from transformerlm.storage.files import free_bytes
from transformerlm.storage.lock import LOCK_FILE, is_locked

State = Literal["preparing", "running", "hanging", "ended", "stopped", "failed", "killed", "empty"]
"""Of these "preparing", "running" and "hanging" are alive: a process holds the folder's lock."""

HANGING_SECONDS, HANGING_PAUSES = 120.0, 10.0
"""A run hangs if it has taken no step for this long, and for this many times its longest pause so far."""
LONG_PHASE_SECONDS = 1800.0
"""That limit while it starts, validates, saves or writes samples, where no step is expected."""
TAIL_BYTES = 2**18
"""Of metrics.jsonl only so much is read, from the end."""
MAX_DEPTH = 4
"""Depth of folders below "runs" that are searched for runs."""
MAX_MANIFEST_BYTES = 2**22


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """A run at one moment; None is what is not known. Times are seconds since 1970."""

    run_dir: Path
    state: State
    since: float | None = None
    """Since when: the start of a run that is alive, the last sign of one that hangs or was killed, the end of
    another."""
    phase: str = ""
    """Work of a run that is alive: training, validating, saving, ..."""
    reason: str = ""
    """Reason of its end."""
    host: str = ""
    pid: int | None = None
    start_id: str | None = None
    """Name of the start that requests are for; None if it takes none."""
    step: int | None = None
    """Completed optimizer steps."""
    end_step: int | None = None
    done: str = ""
    """Used part of a budget in time or tokens, in words."""
    ends_at: float | None = None
    loss: float | None = None
    """The last logged training loss, nats per token."""
    bits_per_byte: float | None = None
    """Of the newest validation; of the best one if that is too far back in metrics.jsonl."""
    validated_step: int | None = None
    tokens_per_second: float | None = None
    checkpoint: str = ""
    """Name of the newest checkpoint's folder."""
    checkpoint_at: float | None = None
    checkpoint_bytes: int | None = None
    num_checkpoints: int = 0
    run_bytes: int = 0
    free_bytes: int | None = None
    memory_bytes: int | None = None
    device_memory_bytes: int | None = None

    @property
    def is_alive(self) -> bool:
        """True if a process works on the run."""
        return self.state in ("preparing", "running", "hanging")

    @property
    def sentence(self) -> str:
        """State and step on one line, for messages."""
        if self.state == "preparing":
            return "preparing (text, tokenizer, tokens), or in use by another command"
        state = f"hanging, while {self.phase}" if self.state == "hanging" else self.state
        state = self.phase if self.state == "running" else state
        after = "" if self.step is None else f" after step {self.step:,}"
        return f"{state}{after}" + (f": {self.reason}" if self.reason else "")

    def to_json(self) -> dict[str, Any]:
        """Return all that is known as JSON values."""
        values = dataclasses.asdict(self) | {"run_dir": str(self.run_dir)}
        return {key: value for key, value in values.items() if value not in (None, "")}


def read_status(run_dir: Path, now: float | None = None) -> RunStatus:
    """Return the state of the run in `run_dir`.

    Args:
        now: seconds since 1970; None: the system's clock.
    """
    now = time.time() if now is None else now
    is_held, heartbeat = is_locked(run_dir), read_heartbeat(run_dir)
    known = {**_metrics(run_dir), **_checkpoints(run_dir), "run_bytes": _size(run_dir)}
    with contextlib.suppress(OSError):
        known["free_bytes"] = free_bytes(run_dir)
    step = known.pop("metrics_step", None)
    if is_held and (heartbeat is None or _is_of_earlier_start(run_dir)):
        holder = _holder(run_dir)
        since = _time_of(run_dir / LOCK_FILE)
        return RunStatus(run_dir=run_dir, state="preparing", since=since, step=step, **holder, **known)
    if heartbeat is None:
        return _without_heartbeat(run_dir, step, known)
    return _with_heartbeat(run_dir, heartbeat, is_held, step, known, now)


def find_runs(folder: Path, depth: int = MAX_DEPTH) -> list[Path]:
    """Return the folders of all runs at or below `folder`, in the order of their names."""
    if _is_run(folder):
        return [folder]
    if not depth:
        return []
    try:
        below = sorted(path for path in folder.iterdir() if path.name[0] != "." and path.is_dir())
    except OSError:
        return []
    return [run for path in below for run in find_runs(path, depth - 1)]


def _is_run(path: Path) -> bool:
    parts = "checkpoints", "metrics.jsonl", CONTROL_DIR
    return any((path / part).exists() for part in parts) or is_locked(path) is True


def _with_heartbeat(
    run_dir: Path,
    heartbeat: Heartbeat,
    is_held: bool | None,
    metrics_step: int | None,
    known: dict[str, Any],
    now: float,
) -> RunStatus:
    last_sign = _time_of(status_path(run_dir)) or heartbeat.written_at
    state = _state(heartbeat, is_held, now - last_sign)
    is_alive = state in ("running", "hanging")
    step = heartbeat.step if heartbeat.phase in ENDS or is_alive else max(heartbeat.step, metrics_step or 0)
    seconds_left = heartbeat.seconds_left if state == "running" else None
    if heartbeat.bits_per_byte is not None:  # the newest validation is further back than what was read
        known.setdefault("bits_per_byte", heartbeat.bits_per_byte)
    return RunStatus(
        run_dir=run_dir,
        state=state,
        since=heartbeat.started_at if state == "running" else last_sign,
        phase=heartbeat.phase if is_alive else "",
        reason=heartbeat.reason,
        host=heartbeat.host,
        pid=heartbeat.pid if is_alive else None,
        start_id=heartbeat.start_id if is_alive else None,
        step=step,
        end_step=heartbeat.end_step,
        done=heartbeat.done,
        ends_at=None if seconds_left is None else max(now, last_sign + seconds_left),
        memory_bytes=heartbeat.memory_bytes if is_alive else None,
        device_memory_bytes=heartbeat.device_memory_bytes if is_alive else None,
        **known,
    )


def _state(heartbeat: Heartbeat, is_held: bool | None, age: float) -> State:
    limit = HANGING_SECONDS if heartbeat.phase == TRAINING else LONG_PHASE_SECONDS
    is_late = age > max(limit, HANGING_PAUSES * heartbeat.longest_pause_seconds)
    if heartbeat.phase in ENDS:
        ends: dict[str, State] = {COMPLETE: "ended", STOPPED: "stopped", FAILED: "failed"}
        return ends[heartbeat.phase]
    if is_held is None:  # no locks on this file system: only the age of the heartbeat tells
        is_held = not is_late
    if not is_held:
        return "killed"
    return "hanging" if is_late else "running"


def _without_heartbeat(run_dir: Path, metrics_step: int | None, known: dict[str, Any]) -> RunStatus:
    """Return the state of a run of an earlier version, or of one that was killed before it trained."""
    newest, since = known["checkpoint"], known["checkpoint_at"]
    step = int(newest.removeprefix("step_")) if newest else metrics_step
    state: State = "empty"
    if newest and _is_complete(run_dir / "checkpoints" / newest):
        state = "ended"
    elif newest or metrics_step is not None:
        state = "stopped" if newest and (metrics_step or 0) <= (step or 0) else "killed"
        step = max(step or 0, metrics_step or 0)
    return RunStatus(run_dir=run_dir, state=state, since=since, step=step, **known)


def _is_of_earlier_start(run_dir: Path) -> bool:
    """Return True if the folder was locked after its heartbeat was written.

    The times are those of one file system, so that clocks of several machines do not matter.
    """
    locked_at, written_at = _time_of(run_dir / LOCK_FILE), _time_of(status_path(run_dir))
    return locked_at is not None and written_at is not None and locked_at > written_at


def _holder(run_dir: Path) -> dict[str, Any]:
    try:
        holder = json.loads((run_dir / LOCK_FILE).read_bytes())
        return {"host": str(holder["host"]), "pid": int(holder["pid"])}
    except (OSError, ValueError, KeyError, TypeError):  # not written yet
        return {}


def _metrics(run_dir: Path) -> dict[str, Any]:
    """Return the newest loss, rate and validation in the end of metrics.jsonl."""
    found: dict[str, Any] = {}
    for record in _last_records(run_dir / "metrics.jsonl"):
        if isinstance(step := record.get("step"), int):
            found["metrics_step"] = step
            if names.VAL_BITS_PER_BYTE in record:
                found["validated_step"] = step
        keys = ("loss", names.LOSS), ("tokens_per_second", names.TOKENS_PER_SECOND)
        for name, key in (*keys, ("bits_per_byte", names.VAL_BITS_PER_BYTE)):
            with contextlib.suppress(ValueError, TypeError):
                found |= {name: float(record[key])} if key in record else {}
    return found


def _last_records(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    records = []
    for line in lines[1:] if size > TAIL_BYTES else lines:
        with contextlib.suppress(ValueError, RecursionError):  # cut off by a kill, or being written
            record = json.loads(line)
            records += [record] if isinstance(record, dict) else []
    return records


def _checkpoints(run_dir: Path) -> dict[str, Any]:
    """Return the newest checkpoint and the number of them; whether it is damaged is not looked at."""
    paths = sorted((run_dir / "checkpoints").glob("step_*[0-9]/manifest.json"))
    newest = paths[-1] if paths else None
    return {
        "checkpoint": newest.parent.name if newest else "",
        "checkpoint_at": _time_of(newest) if newest else None,
        "checkpoint_bytes": _size(newest.parent) if newest else None,
        "num_checkpoints": len(paths),
    }


def _is_complete(checkpoint: Path) -> bool:
    try:
        with (checkpoint / "manifest.json").open("rb") as file:
            return json.loads(file.read(MAX_MANIFEST_BYTES))["about"]["is_complete"] is True
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _size(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):  # removed meanwhile
                total += os.lstat(Path(path, name)).st_size
    return total


def _time_of(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
