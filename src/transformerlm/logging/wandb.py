"""Logger for Weights & Biases. Only this module imports wandb, and only in a subprocess.

Training never waits for wandb. A thread passes each call to the subprocess; a server that is slow or does not
answer costs nothing but the records themselves. In the training process, wandb would hold the interpreter
lock, which every operation of a step needs; and a thread that hangs could not be ended.

    WandbLogger -> queue -> thread -> a line of JSON -> serve(): wandb

If wandb fails, there is one warning, and all records that it has not taken go to the console logger.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformerlm.config import LoggingConfig, WandbConfig
from transformerlm.logging.base import Logger, Value
from transformerlm.logging.console import ConsoleLogger
from transformerlm.logging.terminal import say, warn
from transformerlm.signals import STOPS, WARNINGS, numbers

if TYPE_CHECKING:
    import wandb

INIT_SECONDS = 30
"""Time limit for wandb to start a run, once it is imported."""
IMPORT_SECONDS = 15
"""Time limit for the import of wandb."""
CALL_SECONDS = 300
"""Time limit of a single call; a large checkpoint is copied in one call."""
FINISH_SECONDS = 120
"""Time limit for the last uploads at the end of the program; `wandb sync` sends what is left then."""
MAX_BACKLOG = 10_000
"""Records that may be queued while wandb is slower than the training; it is given up beyond."""

Call = list[Any]
"""Name of a Logger method, followed by its arguments as JSON values."""


class WandbError(Exception):
    """Failure of wandb; the message is the reason."""


class WandbLogger(Logger):
    """Logger that sends records, config and artifacts to a wandb run; stdout stays empty.

    Args:
        config: [wandb].
        logging: [logging], for the architecture and data set to record.
        directory: folder in which wandb keeps its local copy, `wandb`.
        run_name: name of the run.
    """

    def __init__(self, config: WandbConfig, logging: LoggingConfig, directory: Path, run_name: str) -> None:
        self._log_artifacts = config.log_artifacts
        self._settings = {
            "init": {
                "entity": config.entity or None,
                "project": config.project,
                "name": run_name,
                "config": {"architecture": logging.architecture, "dataset": logging.dataset},
                "dir": str(directory.absolute()),
            },
            "settings": {
                "init_timeout": INIT_SECONDS,
                # Somewhat below the limit after which it is killed: time to report the failure.
                "finish_timeout": 0.9 * FINISH_SECONDS,
                "finish_timeout_raises": True,
                "program": sys.argv[0],
            },
            "pid": os.getpid(),
        }
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._wandb = WandbProcess()
        self._thread = threading.Thread(target=self._serve, name="wandb", daemon=True)
        self._thread.start()

    def log(self, values: Mapping[str, Value], step: int | None = None) -> None:
        """Queue a record."""
        self._calls.put(["log", dict(values), step])
        if self._calls.qsize() > MAX_BACKLOG:
            self._wandb.give_up(f"{MAX_BACKLOG:,} records behind")

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Queue the run's config."""
        self._calls.put(["log_config", dict(config)])

    def log_artifact(self, path: Path, name: str, kind: str) -> None:
        """Queue the upload of a file or folder, which must not be moved before `close`."""
        if self._log_artifacts:
            self._calls.put(["log_artifact", str(path.absolute()), name, kind])

    def rewind(self, step: int) -> None:
        """Do nothing: wandb cannot delete records, and ignores those that are sent again."""

    def close(self) -> None:
        """Send what is queued and finish the run; gives up after `FINISH_SECONDS` with a warning."""
        self._calls.put(None)
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self._wandb.give_up(f"not done in {FINISH_SECONDS} seconds")
            self._thread.join(FINISH_SECONDS)

    def _serve(self) -> None:
        calls = iter(self._calls.get, None)
        call: Call | None = None
        consequence = "metrics go to the console instead"
        try:
            found = self._wandb.request(["start", self._settings], IMPORT_SECONDS + INIT_SECONDS)
            say(f"wandb: {found['run']}")
            sync = f"`wandb sync {found['sync_dir']}` uploads what is there"
            consequence = f"{sync}, and metrics go to the console from now on"
            for call in calls:
                self._wandb.request(call, CALL_SECONDS)
            call, consequence = None, sync
            self._wandb.request(["close"], 2 * FINISH_SECONDS)  # `close` above gives up before
            self._wandb.finish()
        except (WandbError, OSError) as error:
            self._wandb.give_up(str(error))
            warn(f"wandb: {error}; {consequence}")
            _replay(itertools.chain([call] if call else [], calls), ConsoleLogger())


class WandbProcess:
    """The subprocess that runs wandb; it handles one call at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._given_up = ""

    def request(self, call: Call, seconds: float) -> dict[str, str]:
        """Send a call, and wait for its result.

        Raises:
            WandbError: the call failed, the subprocess ended, or there was no answer in time.
        """
        if self._given_up:
            raise WandbError(self._given_up)
        process = self._process = self._process or self._started()
        assert process.stdin
        answer = b""
        try:
            process.stdin.write(json.dumps(call).encode() + b"\n")
            process.stdin.flush()
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise WandbError(f"no answer in {seconds} seconds") from None
        except BrokenPipeError:
            pass
        if not answer:
            raise WandbError(self._given_up or f"its process ended with status {process.wait()}")
        found: dict[str, str] = json.loads(answer)
        if "error" in found:
            raise WandbError(found["error"])
        if "warning" in found:
            warn(f"wandb: {found['warning']}")
        return found

    def give_up(self, why: str) -> None:
        """Kill the subprocess; a pending `request` raises WandbError(why)."""
        self._given_up = self._given_up or why
        if self._process:
            self._process.kill()

    def finish(self) -> None:
        """Close its stdin, upon which the subprocess ends by itself."""
        assert self._process
        assert self._process.stdin
        self._process.stdin.close()

    def _started(self) -> subprocess.Popen[bytes]:
        # In its own session, Ctrl-C in the terminal does not reach it: training has more to log then.
        process = subprocess.Popen(
            [sys.executable, "-P", "-X", "utf8", "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        threading.Thread(target=self._listen, args=(process,), name="wandb answers", daemon=True).start()
        return process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        for line in process.stdout:
            self._answers.put(line)
        self._answers.put(b"")


def _replay(calls: Iterable[Call], console: ConsoleLogger) -> None:
    for method, *arguments in calls:
        if method == "log":
            console.log(*arguments)


def serve() -> None:
    """Serve calls in the subprocess: one per line of stdin, an answer per line of stdout."""
    for number in numbers((*STOPS, *WARNINGS)):  # ended by the training process, not before
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # wandb's own output must not mix with answers
    server = _Server()
    for line in sys.stdin.buffer:
        method, *arguments = json.loads(line)
        try:
            answer = getattr(server, method)(*arguments) or {}
        except Exception as error:  # wandb may raise anything
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)
    server.close(exit_code=1)


class _Server:
    """The Logger methods, carried out with wandb."""

    run: wandb.Run | None = None

    def start(self, settings: dict[str, Any]) -> dict[str, str]:
        import wandb

        own = wandb.Settings(**settings["settings"], console="off", silent=True)
        if hasattr(own, "x_stats_pid"):  # process to monitor; not part of wandb's public API
            own.x_stats_pid = settings["pid"]
        online = wandb.setup(own).settings.mode not in ("offline", "dryrun", "disabled")
        # wandb.init would prompt on the terminal, under the progress bar of the training.
        if online and not wandb.login(prompt=False, verify=False):
            raise RuntimeError("not logged in; run `wandb login` first, or set WANDB_MODE=offline")
        Path(settings["init"]["dir"]).mkdir(parents=True, exist_ok=True)
        run = self.run = wandb.init(**settings["init"], settings=own)
        sync_dir = run.settings.sync_dir
        return {"run": f"run {run.name} at {run.url or sync_dir}", "sync_dir": str(sync_dir)}

    def log(self, values: dict[str, Value], step: int | None) -> None:
        assert self.run
        self.run.log(values, step=step)

    def log_config(self, config: dict[str, Any]) -> None:
        assert self.run
        self.run.config.update(config, allow_val_change=True)  # type: ignore[no-untyped-call]

    def log_artifact(self, path: str, name: str, kind: str) -> dict[str, str] | None:
        import wandb

        assert self.run
        if not Path(path).exists():  # such as an old checkpoint that has been pruned since
            return {"warning": f"{path} is gone and was not uploaded"}
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", name, flags=re.ASCII), type=kind)
        (artifact.add_dir if Path(path).is_dir() else artifact.add_file)(path)
        self.run.log_artifact(artifact)
        return None

    def close(self, exit_code: int = 0) -> None:
        run, self.run = self.run, None
        if run:
            run.finish(exit_code)
