"""Construction of the logger that a config asks for."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from transformerlm.config import LoggingConfig, WandbConfig
from transformerlm.logging.base import Logger
from transformerlm.logging.console import ConsoleLogger
from transformerlm.logging.wandb import WandbLogger


def make_logger(logging: LoggingConfig, wandb: WandbConfig, directory: Path, run_name: str) -> Logger:
    """Return the logger that `[logging].backend` names.

    Args:
        directory: folder for files of its own.
        run_name: name of the run, from `resolved_run_name`.
    """
    if logging.backend == "console":
        return ConsoleLogger()
    return WandbLogger(wandb, logging, directory, run_name)


def resolved_run_name(logging: LoggingConfig) -> str:
    """Return [logging].run_name, or by default the time in UTC: `20261122-153000`.

    Under a wandb agent, which may start several runs in one second, its run id is appended, so that each has
    a name of its own.
    """
    if logging.run_name:
        return logging.run_name
    run_id = os.environ.get("WANDB_RUN_ID", "")
    return "-".join(part for part in (datetime.now(UTC).strftime("%Y%m%d-%H%M%S"), run_id) if part)
