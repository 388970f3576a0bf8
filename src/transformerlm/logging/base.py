"""The Logger protocol, a logger that does nothing, and several loggers combined.

A logger takes Python numbers, not tensors: reading a metric from a device makes the host wait, so the caller
decides when.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

Value = float | int | str
"""Type of a logged value."""


class Logger(Protocol):
    """Receives metrics, the config and artifacts. Close it, or use it in a `with` block."""

    def log(self, values: Mapping[str, Value], step: int | None = None) -> None:
        """Record `values` (keys: `transformerlm.logging.names`) after `step` completed optimizer steps."""
        ...

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Record the resolved config, as nested plain dictionaries."""
        ...

    def log_artifact(self, path: Path, name: str, kind: str) -> None:
        """Record a file or folder under `name`; `kind` is a word such as "checkpoint" or "tokenizer"."""
        ...

    def rewind(self, step: int) -> None:
        """Discard the records after `step`: the run has gone back to where `step` steps were completed."""
        ...

    def close(self) -> None:
        """Write everything that is pending. Closing twice is allowed."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NullLogger(Logger):
    """Logger that records nothing; also the base of loggers that take metrics only."""

    def log(self, values: Mapping[str, Value], step: int | None = None) -> None:
        """Ignore `values`."""

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Ignore `config`."""

    def log_artifact(self, path: Path, name: str, kind: str) -> None:
        """Ignore `path`."""

    def rewind(self, step: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class CombinedLogger(Logger):
    """Several loggers as one; each gets every call, in the order given."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self.loggers = tuple(loggers)

    def log(self, values: Mapping[str, Value], step: int | None = None) -> None:
        """Record `values` in each."""
        for logger in self.loggers:
            logger.log(values, step)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Record `config` in each."""
        for logger in self.loggers:
            logger.log_config(config)

    def log_artifact(self, path: Path, name: str, kind: str) -> None:
        """Record `path` in each."""
        for logger in self.loggers:
            logger.log_artifact(path, name, kind)

    def rewind(self, step: int) -> None:
        """Rewind each."""
        for logger in self.loggers:
            logger.rewind(step)

    def close(self) -> None:
        """Close each, even if closing another one raises."""
        with contextlib.ExitStack() as stack:
            for logger in reversed(self.loggers):
                stack.callback(logger.close)
