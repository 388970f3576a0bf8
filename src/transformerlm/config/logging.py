"""[logging] and [wandb]: where metrics go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from transformerlm.errors import Key, Problem
from transformerlm.schema import PositiveFloat, Section, Text

Plain = Literal["console", "wandb"]
Tracked = Literal["console", "tensorboard", "csv", "wandb", "trackio"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggingConfig(Section):
    """[logging]: where metrics go, and the names they are recorded under."""

    backend: Plain | tuple[Plain, ...] = "console"
    """One of these, or a list. "console": one JSON object per line on stdout. "wandb": Weights & Biases."""
    run_name: str = ""
    """Name of the run. "": its start time; with {run_name} in a run's folder, only its name continues it."""
    architecture: str = "transformer"
    """Kind of model; only recorded."""
    dataset: str = ""
    """Name of the data; only recorded. "": the name of the corpus."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield a backend that is named twice."""
        if len(set(self.backends)) < len(self.backends):
            yield Problem(Key("backend"), f"expected each one once, got {list(self.backends)}")

    @property
    def backends(self) -> tuple[str, ...]:
        """`backend` as a list in any case."""
        return (self.backend,) if isinstance(self.backend, str) else self.backend


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainLoggingConfig(LoggingConfig):
    """[logging] of training: more places, and norms inside the model."""

    # mypy sees that a list of more words is wider; it is only read.
    backend: Tracked | tuple[Tracked, ...] = "console"  # type: ignore[assignment]
    """One of these, or a list. "console": stdout. "tensorboard": event files in the folder `tensorboard` of
    the run's folder. "csv": its metrics.csv. "wandb": Weights & Biases. "trackio": trackio's local database.
    An empty list: only its metrics.jsonl, which is written in any case."""
    console_format: Literal["auto", "json", "pretty"] = "auto"
    """"pretty": an aligned line per record, for people. "json": one JSON object per line. "auto": "pretty" if
    stdout is a terminal, else "json"."""
    activation_norms: bool = False
    """Log the L2 norm of every block's output."""
    weight_norms: bool = False
    """Log the L2 norm of every parameter."""
    on_end: str = ""
    """Shell command to run when the run has ended, whether it is complete, was stopped or failed. It finds
    the outcome in TRANSFORMERLM_STATUS (complete, stopped, failed), _RUN_DIR, _STEPS, _BITS_PER_BYTE and
    _REASON. The exit status of the run does not depend on it. "": none."""
    on_end_seconds: PositiveFloat = 60.0
    """Time after which on_end is ended."""
    report: bool = True
    """Write report.html, a page to look at and to show, into the run's folder when the run ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WandbConfig(Section):
    """[wandb]: used only if [logging].backend names "wandb", or "trackio"."""

    entity: str = ""
    """User or team. "": the default of the account."""
    project: Text = "transformerlm"
    """Project that the run belongs to; trackio's too."""
    log_artifacts: bool = True
    """Upload checkpoints and tokenizer files (training) or outputs (inference)."""
