"""Requests to a running job and its answers: small JSON files in `RUN/control`, each written whole.

    ID.request.json   written by whoever asks, removed by the run when it has answered
    ID.answer.json    written by the run, removed by whoever asked

Each request has a random id, so that several can ask at once, and names the start of the run that it is for:
a start that comes later ignores it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from transformerlm.control.heartbeat import CONTROL_DIR, read_record
from transformerlm.storage.files import committed_file

Kind = Literal["save", "validate", "stop", "anneal"]
"""Actions that can be asked of a run."""
KINDS: tuple[Kind, ...] = get_args(Kind)

REQUEST, ANSWER = ".request.json", ".answer.json"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request to one start of a run."""

    id: str
    kind: str
    """One of KINDS."""
    start_id: str
    """That of the heartbeat of the start that is meant."""
    asked_by: str
    """User and host, for people."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answer to a request."""

    id: str
    kind: str
    is_done: bool
    text: str
    """Result in words, or the reason why there is none."""
    step: int
    """Completed optimizer steps when it was done."""


def to_mask(kind: Kind) -> int:
    """Return the number that stands for `kind` where ranks exchange numbers; a sum stands for several."""
    return 1 << KINDS.index(kind)


def from_mask(mask: int) -> list[Kind]:
    """Return the kinds in a sum of `to_mask`."""
    return [kind for kind in KINDS if mask & to_mask(kind)]


def request_path(run_dir: Path, request_id: str) -> Path:
    """Return the path of a request's file."""
    return run_dir / CONTROL_DIR / f"{request_id}{REQUEST}"


def answer_path(run_dir: Path, request_id: str) -> Path:
    """Return the path of an answer's file."""
    return run_dir / CONTROL_DIR / f"{request_id}{ANSWER}"


def write_record(path: Path, record: Request | Answer) -> None:
    """Write a request or an answer, whole or not at all.

    Raises:
        OutputError: the disk is full.
        OSError: it cannot be written.
    """
    with committed_file(path) as file:
        file.write(json.dumps(dataclasses.asdict(record), indent=1).encode() + b"\n")


def request_ids(run_dir: Path) -> list[str]:
    """Return the ids of all requests that are there; none if the folder cannot be read."""
    return _ids(run_dir, REQUEST)


def read_request(run_dir: Path, request_id: str) -> Request | None:
    """Return a request; None if it was withdrawn or is damaged."""
    return read_record(request_path(run_dir, request_id), Request)


def read_answer(run_dir: Path, request_id: str) -> Answer | None:
    """Return the answer to a request; None if there is none yet."""
    return read_record(answer_path(run_dir, request_id), Answer)


def remove_requests(run_dir: Path) -> None:
    """Remove all requests and answers: they belong to earlier starts of the run."""
    for suffix in (REQUEST, ANSWER):
        for request_id in _ids(run_dir, suffix):
            remove(run_dir / CONTROL_DIR / f"{request_id}{suffix}")


def remove(path: Path) -> None:
    """Remove a file, if it is there and can be removed."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _ids(run_dir: Path, suffix: str) -> list[str]:
    try:
        names = sorted(entry.name for entry in (run_dir / CONTROL_DIR).iterdir())
    except OSError:
        return []
    return [name.removesuffix(suffix) for name in names if name.endswith(suffix) and name[0] != "."]
