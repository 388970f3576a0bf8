"""Loggers of other packages (Weights & Biases, TensorBoard, trackio), each in a subprocess of its own.

Training never waits for a tracker. A thread passes each call to the subprocess; a server or a disk that is
slow or does not answer costs nothing but the records themselves. In the training process, a package would
hold the interpreter lock, which every operation of a step needs; and a thread that hangs could not be ended.

    Tracker -> queue -> thread -> a line of JSON -> serve(): the package

If a tracker fails, there is one warning, and training goes on without it.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from transformerlm.logging.base import Logger, Value
from transformerlm.logging.console import ConsoleLogger
from transformerlm.logging.terminal import say, warn
from transformerlm.signals import STOPS, WARNINGS, numbers

IMPORT_SECONDS = 15
"""Time limit for the import of the package."""
INIT_SECONDS = 30
"""Time limit for the package to start a run, once it is imported."""
CALL_SECONDS = 300
"""Time limit of a single call; a large checkpoint is copied in one call."""
FINISH_SECONDS = 120
"""Time limit for the last records at the end of the program."""
MAX_BACKLOG = 10_000
"""Records that may be queued while a tracker is slower than the training; it is given up beyond."""

Call = list[Any]
"""Name of a Logger method, followed by its arguments as JSON values."""


class TrackerError(Exception):
    """Failure of a tracker; the message is the reason."""


class Server(Protocol):
    """Work of a tracker in its subprocess, where it may raise anything: the Logger's methods."""

    def start(self, settings: dict[str, Any]) -> dict[str, str]:
        """Import the package and start a run.

        Returns:
            "run": words for the run and its place; "kept", optionally: what is left if a later call fails.
        """
        ...

    def log(self, values: dict[str, Value], step: int | None) -> dict[str, str] | None:
        """Record values; may return {"warning": ...}, as the methods below."""
        ...

    def log_config(self, config: dict[str, Any]) -> None:
        """Record the config."""
        ...

    def log_artifact(self, path: str, name: str, kind: str) -> dict[str, str] | None:
        """Record a file or folder."""
        ...

    def rewind(self, step: int) -> None:
        """Discard the records after `step`, as far as the package can."""
        ...

    def close(self, exit_code: int = 0) -> dict[str, str] | None:
        """Finish the run; an exit code other than 0 if the training process has gone."""
        ...


class Kind(NamedTuple):
    """A tracker: its word in [logging].backend, and the class of its server."""

    name: str
    server: type[Server]


class Tracker(Logger):
    """Logger that passes every call to a tracker's subprocess.

    Args:
        kind: which tracker.
        settings: JSON values for `Server.start`.
        fallback: gets all records that the tracker has not taken, if it fails; None: the console.
        log_artifacts: pass on files and folders.
    """

    def __init__(
        self,
        kind: Kind,
        settings: Mapping[str, Any],
        fallback: Logger | None = None,
        *,
        log_artifacts: bool = False,
    ) -> None:
        self._name, self._settings, self._fallback = kind.name, settings, fallback or ConsoleLogger()
        self._log_artifacts = log_artifacts
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._process = TrackerProcess(kind)
        self._thread = threading.Thread(target=self._serve, name=kind.name, daemon=True)
        self._thread.start()

    def log(self, values: Mapping[str, Value], step: int | None = None) -> None:
        """Queue a record."""
        self._calls.put(["log", dict(values), step])
        if self._calls.qsize() > MAX_BACKLOG:
            self._process.give_up(f"{MAX_BACKLOG:,} records behind")

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Queue the run's config."""
        self._calls.put(["log_config", dict(config)])

    def log_artifact(self, path: Path, name: str, kind: str) -> None:
        """Queue a file or folder, which must not be moved before `close`."""
        if self._log_artifacts:
            self._calls.put(["log_artifact", str(path.absolute()), name, kind])

    def rewind(self, step: int) -> None:
        """Queue a return to an earlier step."""
        self._calls.put(["rewind", step])

    def close(self) -> None:
        """Send what is queued and finish the run; gives up after `FINISH_SECONDS` with a warning."""
        self._calls.put(None)
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self._process.give_up(f"not done in {FINISH_SECONDS} seconds")
            self._thread.join(FINISH_SECONDS)

    def _serve(self) -> None:
        calls = iter(self._calls.get, None)
        call: Call | None = None
        kept, consequence = "", self._consequence("instead")
        try:
            found = self._process.request(["start", self._settings], IMPORT_SECONDS + INIT_SECONDS)
            say(f"{self._name}: {found['run']}")
            kept = found.get("kept", "")
            consequence = " and ".join(filter(None, (kept, self._consequence("from now on"))))
            for call in calls:
                self._process.request(call, CALL_SECONDS)
            call, consequence = None, kept or "the last records may be missing"
            self._process.request(["close"], 2 * FINISH_SECONDS)  # `close` above gives up before
            self._process.finish()
        except (TrackerError, OSError) as error:
            self._process.give_up(str(error))
            warn(f"{self._name}: {error}; {consequence}")
            self._replay(itertools.chain([call] if call else [], calls))

    def _consequence(self, when: str) -> str:
        is_console = isinstance(self._fallback, ConsoleLogger)
        return f"metrics go to the console {when}" if is_console else "metrics are logged without it"

    def _replay(self, calls: Iterable[Call]) -> None:
        for method, *arguments in calls:
            if method == "log":
                self._fallback.log(*arguments)


class TrackerProcess:
    """The subprocess in which a tracker's package runs; it handles one call at a time."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._given_up = ""

    def request(self, call: Call, seconds: float) -> dict[str, str]:
        """Send a call, and wait for its result.

        Raises:
            TrackerError: the call failed, the subprocess ended, or there was no answer in time.
        """
        if self._given_up:
            raise TrackerError(self._given_up)
        process = self._process = self._process or self._started()
        assert process.stdin
        answer = b""
        try:
            process.stdin.write(json.dumps(call).encode() + b"\n")
            process.stdin.flush()
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise TrackerError(f"no answer in {seconds} seconds") from None
        except BrokenPipeError:
            pass
        if not answer:
            raise TrackerError(self._given_up or f"its process ended with status {process.wait()}")
        found: dict[str, str] = json.loads(answer)
        if "error" in found:
            raise TrackerError(found["error"])
        if "warning" in found:
            warn(f"{self._kind.name}: {found['warning']}")
        return found

    def give_up(self, why: str) -> None:
        """Kill the subprocess; a pending `request` raises TrackerError(why)."""
        self._given_up = self._given_up or why
        if self._process:
            self._process.kill()

    def finish(self) -> None:
        """Close its stdin, upon which the subprocess ends by itself."""
        assert self._process
        assert self._process.stdin
        self._process.stdin.close()

    def _started(self) -> subprocess.Popen[bytes]:
        server = self._kind.server
        code = f"from {__name__} import serve; from {server.__module__} import {server.__name__} as server; "
        # In its own session, Ctrl-C in the terminal does not reach it: training has more to log then.
        process = subprocess.Popen(
            [sys.executable, "-P", "-X", "utf8", "-c", f"{code}serve(server())"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        name = f"{self._kind.name} answers"
        threading.Thread(target=self._listen, args=(process,), name=name, daemon=True).start()
        return process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        for line in process.stdout:
            self._answers.put(line)
        self._answers.put(b"")


def serve(server: Server) -> None:
    """Serve calls in the subprocess: one per line of stdin, an answer per line of stdout."""
    for number in numbers((*STOPS, *WARNINGS)):  # ended by the training process, not before
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the package's own output must not mix with answers
    for line in sys.stdin.buffer:
        method, *arguments = json.loads(line)
        try:
            answer = getattr(server, method)(*arguments) or {}
        except Exception as error:  # a package may raise anything
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)
    server.close(exit_code=1)
