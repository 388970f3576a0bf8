"""Saved state of a run: the content of a checkpoint, and its conversion to and from files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from transformerlm.checkpoint.load_state import as_checkpoint_error
from transformerlm.checkpoint.run_directory import RunDirectory
from transformerlm.checkpoint.store import BEST_VALIDATION, IS_COMPLETE, NEWEST_VALIDATION, Checkpoint
from transformerlm.distributed.sharding import Parallelism
from transformerlm.evaluation.loss import Validation


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run after `step` steps.

    `weights` is the content of model.safetensors, `training()` that of training.safetensors, and `about()`
    the part of the manifest that readers need without opening the others.
    """

    step: int
    weights: Mapping[str, Tensor]
    """By their names in the model."""
    learner: Mapping[str, Any]
    """`Learner.state()`: optimizer, loss scaler, random number generators, limit of the micro-batch."""
    step_guard: Mapping[str, Any]
    """`StepGuard.state()`: its counts, and the losses and norms that later steps are compared with."""
    best: Validation | None
    newest: Validation | None
    config: Mapping[str, Any]
    """The resolved config."""
    identity: Mapping[str, Any]
    """Fingerprints of model, tokenizer and data, which a run cannot change."""
    environment: Mapping[str, Any]
    """Versions, threads and ranks, on which the last bits of results depend."""
    micro_batch_size: int | None
    clock: Mapping[str, Any]
    """`Clock.state()`: the seconds that the run has spent on each kind of work."""
    completed_seconds: float
    """The longest time budget that this run has used up."""
    since_best: int
    """Validations after the best one."""
    budget: Mapping[str, Any]
    """`Budget.state()`: the early end of the run, if it has begun."""
    is_complete: bool
    """True if no further step will be taken."""

    def training(self) -> dict[str, Any]:
        """Return the content of training.safetensors: with the weights, all that a resumed run needs."""
        return {
            **self.learner,
            "guard": self.step_guard,
            "best": self.best.to_plain() if self.best else [],
            "newest": self.newest.to_plain() if self.newest else [],
            "since_best": self.since_best,
            "budget": self.budget,
        }

    def about(self) -> dict[str, Any]:
        """Return the manifest's entries, as JSON values."""
        return {
            "config": self.config,
            "identity": self.identity,
            "environment": self.environment,
            NEWEST_VALIDATION: self.newest.to_plain() if self.newest else [],
            BEST_VALIDATION: self.best.to_plain() if self.best else [],
            IS_COMPLETE: self.is_complete,
            "micro_batch_size": self.micro_batch_size,
            "clock": self.clock,
            "completed_seconds": self.completed_seconds,
        }

    def write(self, run: RunDirectory, keep: int, parallelism: Parallelism | None = None) -> None:
        """Commit a checkpoint, and remove all but the newest `keep` and the best one; see `run.save`."""
        best_step = self.best.step if self.best else None
        content = self.step, self.weights, self.training(), self.about()
        run.save(*content, keep, best_step, parallelism)

    @classmethod
    def read(cls, found: Checkpoint, weights: Mapping[str, Any], training: Mapping[str, Any]) -> Self:
        """Return a checkpoint's state, from its manifest and its two members; earlier versions wrote less.

        Raises:
            CheckpointError: its content is not such a state.
        """
        about = found.about
        with as_checkpoint_error(f"{found.path}: what it says of its run"):
            return cls(
                step=found.step,
                weights=weights,
                learner=training,
                step_guard=training.get("guard", {}),
                best=Validation.from_plain(training["best"]),
                newest=Validation.from_plain(training["newest"]),
                config=about.get("config", {}),
                identity=about.get("identity", {}),
                environment=about.get("environment", {}),
                micro_batch_size=about.get("micro_batch_size"),
                clock=about.get("clock", {}),
                completed_seconds=float(about.get("completed_seconds", 0.0)),
                since_best=int(training.get("since_best", 0)),
                budget=training.get("budget", {}),
                is_complete=about.get(IS_COMPLETE) is True,
            )
