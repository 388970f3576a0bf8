"""Weights & Biases as a logger; the only importer of wandb, and only once it is chosen.

Training never waits for it: a thread of its own starts the run and sends what is queued, so that a
server that is slow, unreachable or silent costs nothing but its own record. Where wandb cannot go on
there is one warning, and everything logged so far and from then on goes to the console logger instead.
"""

from __future__ import annotations

import itertools
import queue
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformerlm.config import LoggingConfig, WandbConfig
from transformerlm.logging.base import Logger, Value
from transformerlm.logging.console import ConsoleLogger
from transformerlm.logging.terminal import say, warn

if TYPE_CHECKING:
    import wandb

INIT_SECONDS = 30
"""How long wandb may take to start a run."""
FINISH_SECONDS = 300
"""How long the end of the program waits for wandb's last uploads."""

Call = Callable[[Logger], None]


class WandbLogger(Logger):
    """The same records, config and artefacts, sent to a wandb run; stdout stays empty.

    Args:
        config: [wandb].
        logging: [logging], for the architecture and data set to record.
        directory: where wandb keeps its own copy, in a folder `wandb`.
        run_name: what the run is called.
    """

    def __init__(self, config: WandbConfig, logging: LoggingConfig, directory: Path, run_name: str) -> None:
        self._config, self._logging, self._directory, self._run_name = config, logging, directory, run_name
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        # A daemon: a wandb that hangs does not keep the finished program alive.
        self._thread = threading.Thread(target=self._serve, name="wandb", daemon=True)
        self._thread.start()

    def log(self, values: Mapping[str, Value], step: int | None = None) -> None:
        """Queue a record."""
        record = dict(values)
        self._calls.put(lambda target: target.log(record, step))

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Queue the run's config."""
        self._calls.put(lambda target: target.log_config(config))

    def log_artifact(self, path: Path, name: str, kind: str) -> None:
        """Queue an upload of a file or folder, which must stay where it is until `close`."""
        if self._config.log_artifacts:
            self._calls.put(lambda target: target.log_artifact(path, name, kind))

    def close(self) -> None:
        """Send what is queued and finish the run; gives up after `FINISH_SECONDS` with a warning."""
        self._calls.put(None)
        self._thread.join(INIT_SECONDS + FINISH_SECONDS)
        if self._thread.is_alive():
            warn(f"wandb did not finish; `wandb sync` uploads what {self._directory / 'wandb'} holds")

    def _serve(self) -> None:
        calls = iter(self._calls.get, None)
        call: Call | None = None
        try:
            run = _Run(self._start())
            for call in calls:
                call(run)
            call = None
            run.close()
        except Exception as error:  # another program's whole world of failures, and none may stop training
            warn(f"wandb: {_first_line(error)}; metrics go to the console instead")
            _replay(itertools.chain([call] if call else [], calls), ConsoleLogger())

    def _start(self) -> wandb.Run:
        import wandb

        settings = wandb.Settings(
            init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS, console="off", silent=True
        )
        online = wandb.setup(settings).settings.mode not in ("offline", "dryrun", "disabled")
        # wandb.init would ask on the terminal, under the progress bar of a training that goes on.
        if online and not wandb.login(prompt=False, verify=False):
            raise RuntimeError("not logged in; run `wandb login` first, or set WANDB_MODE=offline")
        self._directory.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            entity=self._config.entity or None,
            project=self._config.project,
            name=self._run_name,
            config={"architecture": self._logging.architecture, "dataset": self._logging.dataset},
            dir=self._directory.absolute(),  # wandb's own process may work in another folder
            settings=settings,
        )
        say(f"wandb: run {run.name} at {run.url or run.settings.sync_dir}")
        return run


class _Run(Logger):
    """A wandb run as a logger that answers when wandb does."""

    def __init__(self, run: wandb.Run) -> None:
        self._run = run

    def log(self, values: Mapping[str, Value], step: int | None = None) -> None:
        self._run.log(dict(values), step=step)

    def log_config(self, config: Mapping[str, Any]) -> None:
        self._run.config.update(dict(config), allow_val_change=True)  # type: ignore[no-untyped-call]

    def log_artifact(self, path: Path, name: str, kind: str) -> None:
        import wandb

        if not path.exists():  # such as an old checkpoint that was pruned meanwhile
            warn(f"wandb: {path} is gone and was not uploaded")
            return
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", name, flags=re.ASCII), type=kind)
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def close(self) -> None:
        self._run.finish()


def _replay(calls: Iterable[Call], target: Logger) -> None:
    for call in calls:
        call(target)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
