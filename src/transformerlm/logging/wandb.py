"""Logger for Weights & Biases. Only this module imports wandb, and only in a subprocess (tracker.py)."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformerlm.config import LoggingConfig, WandbConfig
from transformerlm.logging import tracker
from transformerlm.logging.base import Logger, Value
from transformerlm.logging.tracker import Kind, Tracker

if TYPE_CHECKING:
    import wandb


class WandbLogger(Tracker):
    """Logger that sends records, config and artifacts to a wandb run; stdout stays empty.

    What is left after `FINISH_SECONDS` at the end of the program, `wandb sync` uploads.

    Args:
        config: [wandb].
        logging: [logging], for the architecture and data set to record.
        directory: folder in which wandb keeps its local copy, `wandb`.
        run_name: name of the run.
        fallback: see `Tracker`.
    """

    def __init__(
        self,
        config: WandbConfig,
        logging: LoggingConfig,
        directory: Path,
        run_name: str,
        fallback: Logger | None = None,
    ) -> None:
        settings = {
            "init": {
                "entity": config.entity or None,
                "project": config.project,
                "name": run_name,
                "config": {"architecture": logging.architecture, "dataset": logging.dataset},
                "dir": str(directory.absolute()),
            },
            "settings": {
                "init_timeout": tracker.INIT_SECONDS,
                # Somewhat below the limit after which it is killed: time to report the failure.
                "finish_timeout": 0.9 * tracker.FINISH_SECONDS,
                "finish_timeout_raises": True,
                "program": sys.argv[0],
            },
            "pid": os.getpid(),
        }
        super().__init__(Kind("wandb", WandbServer), settings, fallback, log_artifacts=config.log_artifacts)


class WandbServer:
    """The Logger's methods, carried out with wandb."""

    run: wandb.Run | None = None

    def start(self, settings: dict[str, Any]) -> dict[str, str]:
        """See `tracker.Server`."""
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
        kept = f"`wandb sync {sync_dir}` uploads what is there"
        return {"run": f"run {run.name} at {run.url or sync_dir}", "kept": kept}

    def log(self, values: dict[str, Value], step: int | None) -> None:
        """See `tracker.Server`."""
        assert self.run
        self.run.log(values, step=step)

    def log_config(self, config: dict[str, Any]) -> None:
        """See `tracker.Server`."""
        assert self.run
        self.run.config.update(config, allow_val_change=True)  # type: ignore[no-untyped-call]

    def log_artifact(self, path: str, name: str, kind: str) -> dict[str, str] | None:
        """See `tracker.Server`."""
        import wandb

        assert self.run
        if not Path(path).exists():  # such as an old checkpoint that has been pruned since
            return {"warning": f"{path} is gone and was not uploaded"}
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", name, flags=re.ASCII), type=kind)
        (artifact.add_dir if Path(path).is_dir() else artifact.add_file)(path)
        self.run.log_artifact(artifact)
        return None

    def rewind(self, step: int) -> None:
        """Do nothing: wandb cannot delete records, and ignores those that are sent again."""

    def close(self, exit_code: int = 0) -> None:
        """See `tracker.Server`."""
        run, self.run = self.run, None
        if run:
            run.finish(exit_code)
