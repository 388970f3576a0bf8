"""What a logger is, the one that does nothing, and several taken as one.

A logger takes finished Python numbers: reading a metric from a device makes the host wait, so the
caller decides when. Nothing here knows where metrics end up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

Value = float | int | str
"""What a key may hold."""


class Logger(Protocol):
    """Where metrics, the config and artefacts go. Close it, or use it in a `with` block."""

    def log(self, values: Mapping[str, Value], step: int | None = None) -> None:
        """Record `values` (keys: `transformerlm.logging.names`) after `step` completed optimizer steps."""
        ...

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Record the resolved config, as nested plain dictionaries."""
        ...

    def log_artifact(self, path: Path, name: str, kind: str) -> None:
        """Hand over a file or folder under `name`; `kind` is a word such as "checkpoint" or "tokenizer"."""
        ...

    def rewind(self, step: int) -> None:
        """The run has gone back to where `step` steps were completed: what was logged since is void."""
        ...

    def close(self) -> None:
        """Write out what is still under way. Closing twice is allowed."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NullLogger(Logger):
    """Records nothing; also the base of loggers that take metrics only."""

    def log(self, values: Mapping[str, Value], step: int | None = None) -> None:
        """Drop `values`."""

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Drop `config`."""

    def log_artifact(self, path: Path, name: str, kind: str) -> None:
        """Leave `path` where it is."""

    def rewind(self, step: int) -> None:
        """Nothing was kept."""

    def close(self) -> None:
        """There is nothing to close."""


class CombinedLogger(Logger):
    """Several loggers as one; each gets everything, in the order given."""

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
        """Hand `path` to each."""
        for logger in self.loggers:
            logger.log_artifact(path, name, kind)

    def rewind(self, step: int) -> None:
        """Tell each."""
        for logger in self.loggers:
            logger.rewind(step)

    def close(self) -> None:
        """Close each, also where closing another raises."""
        with contextlib.ExitStack() as stack:
            for logger in reversed(self.loggers):
                stack.callback(logger.close)
