"""[logging] and [wandb]: where metrics go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transformerlm.schema import Section, Text


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggingConfig(Section):
    """[logging]: where metrics go, and the names they are recorded under."""

    backend: Literal["console", "wandb"] = "console"
    """"console": one JSON object per line on stdout. "wandb": Weights & Biases."""
    run_name: str = ""
    """Name of the run. "": its start time; with {run_name} in a run's folder, only its name continues it."""
    architecture: str = "transformer"
    """Kind of model; only recorded."""
    dataset: str = ""
    """Name of the data; only recorded. "": the name of the corpus."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainLoggingConfig(LoggingConfig):
    """[logging] of training: also norms inside the model."""

    activation_norms: bool = False
    """Log the L2 norm of every block's output."""
    weight_norms: bool = False
    """Log the L2 norm of every parameter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WandbConfig(Section):
    """[wandb]: used only if [logging].backend is "wandb"."""

    entity: str = ""
    """User or team. "": the default of the account."""
    project: Text = "transformerlm"
    """Project that the run belongs to."""
    log_artifacts: bool = True
    """Upload checkpoints and tokenizer files (training) or outputs (inference)."""
