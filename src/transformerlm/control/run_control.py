"""Status of a training process, and its answers to requests: `RunControl`.

Of several ranks only rank 0 has one that is attached to a folder; on the others it does nothing. All files
are looked at between steps, by the clock and not at each step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformerlm.control.heartbeat import (
    COMPLETE,
    CONTROL_DIR,
    FAILED,
    FINISHING,
    STARTING,
    STOPPED,
    TRAINING,
    Heartbeat,
    read_heartbeat,
    resident_bytes,
    write_heartbeat,
)
from transformerlm.control.requests import (
    KINDS,
    Answer,
    Kind,
    Request,
    answer_path,
    read_request,
    remove,
    remove_requests,
    request_ids,
    request_path,
    to_mask,
    write_record,
)
from transformerlm.errors import OutputError, first_line
from transformerlm.storage.files import make_directory

POLL_SECONDS = 0.5
"""Time between two looks for requests."""
BEAT_SECONDS = 1.0
"""Time between two heartbeats, as long as the run stays in one phase."""

DONE_AT_END = {COMPLETE: {"save", "validate", "stop"}, STOPPED: {"save", "stop"}, FAILED: {"stop"}}
"""Actions that are done in any case when a run has ended in this way."""


@dataclass(frozen=True)
class Outcome:
    """The end of a process's work on a run."""

    status: str
    """COMPLETE, STOPPED (the same command goes on) or FAILED."""
    reason: str
    step: int = 0
    """Completed optimizer steps."""
    bits_per_byte: float | None = None
    """Of the run's result, or of its best validation so far; None without any."""


class RunControl:
    """Heartbeats of a run, requests to it, and its outcome; does nothing until it is attached to a folder."""

    def __init__(self, poll_seconds: float | None = None) -> None:
        self.run_dir: Path | None = None
        """Folder of the run, once this process holds its lock."""
        self.outcome: Outcome | None = None
        """The end of the work; None before it, and where this process never held the lock."""
        self._poll_seconds = POLL_SECONDS if poll_seconds is None else poll_seconds
        self._details: Callable[[int], Mapping[str, Any]] = lambda step: {}
        self._heartbeat: Heartbeat | None = None
        self._step = 0
        self._next_poll = self._next_beat = 0.0
        self._last_step: float | None = None
        self._longest_pause = 0.0
        self._seen: set[str] = set()
        self._pending: dict[str, Request] = {}

    @contextlib.contextmanager
    def attached(self, run_dir: Path) -> Iterator[None]:
        """Record the outcome of the block in a run's folder, whose lock is held, and answer what is asked."""
        self.run_dir = run_dir
        try:
            yield
        except BaseException as error:
            bits = self._heartbeat.bits_per_byte if self._heartbeat else None
            self.outcome = Outcome(*_reason_of(error), self._step, bits)
            raise
        finally:
            self._close(run_dir)

    def begin(self, details: Callable[[int], Mapping[str, Any]], step: int = 0) -> None:
        """Record that the run has started; what was asked of earlier starts is removed.

        Args:
            details: returns further fields of the heartbeat after so many steps; called about once a second.
            step: completed optimizer steps so far.
        """
        self._step = step
        if self.run_dir is None:
            return
        make_directory(self.run_dir / CONTROL_DIR)
        remove_requests(self.run_dir)
        self._details = details
        self._write(self._first_heartbeat())

    def beat(self, step: int, phase: str = TRAINING) -> None:
        """Record that `phase` goes on, or begins, after `step` steps."""
        self._step = step
        if self._heartbeat is None:
            return
        now = time.monotonic()
        if phase == TRAINING:
            pause = 0.0 if self._last_step is None else now - self._last_step
            self._longest_pause, self._last_step = max(self._longest_pause, pause), now
        if phase != self._heartbeat.phase or now >= self._next_beat:
            self._next_beat = now + BEAT_SECONDS
            self._record(phase, **self._details(self._step))

    def poll(self) -> int:
        """Return what has been asked since the last call, as a sum of `to_mask`."""
        now = time.monotonic()
        if self._heartbeat is None or now < self._next_poll:
            return 0
        self._next_poll = now + self._poll_seconds
        kinds = self._collect()
        return sum(to_mask(kind) for kind in KINDS if kind in kinds)

    def answer(self, kind: Kind, text: str, *, is_done: bool) -> None:
        """Answer all that have asked for `kind`."""
        for request in [request for request in self._pending.values() if request.kind == kind]:
            self._answer(request, text, is_done)

    def askers(self, kind: Kind) -> str:
        """Return who is waiting for an answer to `kind`, in words."""
        asked_by = {request.asked_by for request in self._pending.values() if request.kind == kind}
        return " and ".join(sorted(asked_by))

    def finishing(self) -> None:
        """Record that all steps are done, and only samples and messages are left."""
        self.beat(self._step, FINISHING)

    def end(self, outcome: Outcome) -> None:
        """Set how the run has ended; it is recorded when the block of `attached` ends."""
        self.outcome = outcome

    def _first_heartbeat(self) -> Heartbeat:
        now = time.time()
        return Heartbeat(
            start_id=secrets.token_hex(8),
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=now,
            written_at=now,
            phase=STARTING,
            step=self._step,
        )

    def _collect(self) -> set[str]:
        """Read the requests that are new, and return their kinds."""
        assert self.run_dir
        assert self._heartbeat
        kinds: set[str] = set()
        for request_id in request_ids(self.run_dir):
            if request_id in self._seen:
                continue
            self._seen.add(request_id)
            request = read_request(self.run_dir, request_id)
            if request is None or request.id != request_id:
                continue
            if request.start_id != self._heartbeat.start_id:
                self._answer(request, "the run was started anew meanwhile; ask again", is_done=False)
            elif request.kind not in KINDS:
                self._answer(request, f"this run takes {', '.join(KINDS)}", is_done=False)
            else:
                self._pending[request_id] = request
                kinds.add(request.kind)
        return kinds

    def _answer(self, request: Request, text: str, is_done: bool) -> None:
        assert self.run_dir
        answer = Answer(id=request.id, kind=request.kind, is_done=is_done, text=text, step=self._step)
        with contextlib.suppress(OSError, OutputError):  # a full disk; who has asked stops waiting some time
            write_record(answer_path(self.run_dir, request.id), answer)
        remove(request_path(self.run_dir, request.id))
        self._pending.pop(request.id, None)

    def _record(self, phase: str, **details: Any) -> None:
        assert self._heartbeat
        self._write(
            dataclasses.replace(
                self._heartbeat,
                written_at=time.time(),
                phase=phase,
                step=self._step,
                longest_pause_seconds=round(self._longest_pause, 3),
                memory_bytes=resident_bytes(),
                **details,
            )
        )

    def _write(self, heartbeat: Heartbeat) -> None:
        assert self.run_dir
        self._heartbeat = heartbeat
        write_heartbeat(self.run_dir, heartbeat)

    def _close(self, run_dir: Path) -> None:
        outcome = self.outcome
        if outcome is None:
            return
        # A start that failed early, or had nothing to do, has recorded nothing of its own so far.
        earlier = self._heartbeat or read_heartbeat(run_dir)
        if earlier is None or (self._heartbeat is None and outcome.status == COMPLETE == earlier.phase):
            return
        was_open = self._heartbeat is not None
        self._heartbeat = earlier if was_open else self._first_heartbeat()
        self._step = outcome.step or earlier.step
        # What has failed is not asked for details.
        details = {} if outcome.status == FAILED else dict(self._details(self._step))
        details |= {"reason": outcome.reason, "bits_per_byte": outcome.bits_per_byte}
        self._record(outcome.status, **details)
        if was_open:
            self._collect()
        for request in list(self._pending.values()):
            is_done = request.kind in DONE_AT_END[outcome.status]
            self._answer(request, self._last_words(request, outcome), is_done)

    def _last_words(self, request: Request, outcome: Outcome) -> str:
        if request.kind == "stop" and outcome.status == STOPPED:
            return f"stopped after step {self._step}, which is saved; the same command goes on"
        return f"the run has ended meanwhile: {outcome.status} after step {self._step}: {outcome.reason}"


def _reason_of(error: BaseException) -> tuple[str, str]:
    """Return the status and the reason of an outcome."""
    if isinstance(error, KeyboardInterrupt):
        return STOPPED, "interrupted; steps since the newest checkpoint are lost"
    if isinstance(error, SystemExit):
        return STOPPED, f"ended with exit status {error.code}"
    return FAILED, first_line(error)
