"""Construction of the logger that a config asks for."""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path

from transformerlm.config import LoggingConfig, TrainLoggingConfig, WandbConfig
from transformerlm.errors import ConfigError, Key, Problem
from transformerlm.logging.base import CombinedLogger, Logger, NullLogger
from transformerlm.logging.console import ConsoleLogger
from transformerlm.logging.csv import CsvFile
from transformerlm.logging.pretty import PrettyConsole
from transformerlm.logging.screen import is_terminal
from transformerlm.logging.tensorboard import TensorBoardLogger
from transformerlm.logging.trackio import TrackioLogger
from transformerlm.logging.wandb import WandbLogger

PACKAGES = ("tensorboard", "wandb", "trackio")
"""Backends that need a package of the same name; the extra that installs it has that name too."""


def check_backends(logging: LoggingConfig) -> None:
    """Check that the packages of [logging].backend are installed; nothing is imported.

    Raises:
        ConfigError: with one line for each package that is missing.
    """
    missing = [name for name in logging.backends if name in PACKAGES and not _is_installed(name)]
    problems = [_not_installed(name) for name in missing]
    if problems:
        raise ConfigError(problems)


def _is_installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None  # without one it is any folder of that name


def _not_installed(name: str) -> Problem:
    advice = f"install it: pip install {name}, or in a clone: uv sync --extra {name}"
    return Problem(
        Key("logging", "backend"), f'"{name}" needs the package {name}, which is not installed; {advice}'
    )


def make_logger(logging: LoggingConfig, wandb: WandbConfig, directory: Path, run_name: str) -> Logger:
    """Return the logger that `[logging].backend` names, or all of them as one.

    Args:
        directory: folder for files of their own.
        run_name: name of the run, from `resolved_run_name`.
    """
    console = make_console(logging)
    # If a tracker fails that is alone, the console takes its place.
    fallback = console if len(logging.backends) == 1 else NullLogger()
    made: list[Logger] = []
    for name in logging.backends:
        if name == "console":
            made.append(console)
        elif name == "csv":
            made.append(CsvFile(directory / "metrics.csv"))
        elif name == "tensorboard":
            made.append(TensorBoardLogger(directory / "tensorboard", fallback))
        elif name == "trackio":
            made.append(TrackioLogger(wandb.project, run_name, fallback))
        else:
            made.append(WandbLogger(wandb, logging, directory, run_name, fallback))
    return made[0] if len(made) == 1 else CombinedLogger(made)


def make_console(logging: LoggingConfig) -> ConsoleLogger:
    """Return the console logger of [logging].console_format; commands other than training print JSON."""
    if not isinstance(logging, TrainLoggingConfig):
        return ConsoleLogger()
    is_pretty = logging.console_format == "pretty"
    if logging.console_format == "auto":
        is_pretty = is_terminal(sys.stdout)
    return PrettyConsole() if is_pretty else ConsoleLogger()


def resolved_run_name(logging: LoggingConfig) -> str:
    """Return [logging].run_name, or by default the time in UTC and some letters: `20261122-153000-3fa9`.

    Several runs may start in one second. Under a wandb agent its run id is in place of the letters.
    """
    if logging.run_name:
        return logging.run_name
    run_id = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(2)
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{run_id}"
