"""The asking side of a request: write it, wait for the answer, and say what became of it."""

from __future__ import annotations

import getpass
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path

from transformerlm.control.heartbeat import ENDS, read_heartbeat
from transformerlm.control.requests import (
    Answer,
    Kind,
    Request,
    answer_path,
    read_answer,
    remove,
    request_path,
    write_record,
)
from transformerlm.control.run_status import RunStatus, read_status
from transformerlm.errors import OutputError, TransformerLMError
from transformerlm.storage.files import system_error
from transformerlm.storage.lock import is_locked

LOOK_SECONDS = 0.1
"""Time between two looks for the answer."""


class NotAnsweredError(TransformerLMError):
    """A request that the run did not answer: it is not running, has ended meanwhile, or takes too long."""


def ask(
    run_dir: Path, kind: Kind, time_limit: float, say: Callable[[str], object] = lambda line: None
) -> Answer:
    """Ask a running job for something, and wait for its answer.

    After "stop" the job has also released the run's folder. A request that is not answered is withdrawn.

    Args:
        time_limit: seconds to wait.
        say: receives a line while the command waits.

    Raises:
        NotAnsweredError: one line that says why there is no answer.
        OutputError: the request cannot be written.
    """
    status = read_status(run_dir)
    start_id = _start_to_ask(status)
    request = Request(id=secrets.token_hex(8), kind=kind, start_id=start_id, asked_by=_asker())
    deadline = time.monotonic() + time_limit
    try:
        try:
            write_record(request_path(run_dir, request.id), request)
        except OSError as error:
            raise OutputError(system_error(error)) from None
        say(f"{run_dir}: asked to {kind}; {status.sentence}")
        answer = _wait(run_dir, request, deadline)
        if kind == "stop" and answer.is_done:
            _wait_until_free(run_dir, deadline)
        return answer
    finally:
        remove(request_path(run_dir, request.id))
        remove(answer_path(run_dir, request.id))


def _start_to_ask(status: RunStatus) -> str:
    """Return the id of the start that a request would be for.

    Raises:
        NotAnsweredError: nobody would answer.
    """
    if not status.is_alive:
        raise NotAnsweredError(f"{status.run_dir}: not running, so there is nobody to ask: {status.sentence}")
    if status.start_id is None:
        what = "is not yet training, and takes requests once it does"
        raise NotAnsweredError(f"{status.run_dir}: {what}: {status.sentence}")
    return status.start_id


def _wait(run_dir: Path, request: Request, deadline: float) -> Answer:
    while True:
        is_held = is_locked(run_dir)
        # Looked for after the lock: a run answers before it releases that.
        if answer := read_answer(run_dir, request.id):
            return answer
        heartbeat = read_heartbeat(run_dir)
        if heartbeat is None or heartbeat.start_id != request.start_id:
            raise NotAnsweredError(f"{run_dir}: started anew before it has answered; ask again")
        if is_held is False:
            ended = read_status(run_dir).sentence
            raise NotAnsweredError(f"{run_dir}: ended before it has answered: {ended}")
        if time.monotonic() > deadline:
            now = read_status(run_dir).sentence
            raise NotAnsweredError(f"{run_dir}: no answer in time; the request is withdrawn: {now}")
        time.sleep(LOOK_SECONDS)


def _wait_until_free(run_dir: Path, deadline: float) -> None:
    while time.monotonic() < deadline and is_locked(run_dir) and _has_ended(run_dir):
        time.sleep(LOOK_SECONDS)


def _has_ended(run_dir: Path) -> bool:
    heartbeat = read_heartbeat(run_dir)
    return heartbeat is None or heartbeat.phase in ENDS


def _asker() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in containers
        user = "somebody"
    return f"{user} on {socket.gethostname()}"
