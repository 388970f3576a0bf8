"""Consequences of a step whose loss or gradient is not finite: an error, a skipped step, or a rollback."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from transformerlm.checkpoint.run_directory import RunDirectory
from transformerlm.checkpoint.store import Checkpoint
from transformerlm.distributed.ranks import Ranks
from transformerlm.logging import Logger
from transformerlm.nn import TransformerLM
from transformerlm.progress import Reporter
from transformerlm.training.learner import Learner, StepResult
from transformerlm.training.run_state import RunState
from transformerlm.training.step_guard import StepGuard, first_not_finite


class Faulty(Protocol):
    """Part of a Trainer that is needed here."""

    run: RunDirectory
    ranks: Ranks
    reporter: Reporter
    learner: Learner
    model: TransformerLM
    step_guard: StepGuard
    step: int
    undecided: deque[tuple[int, StepResult]]

    def load(self, found: Checkpoint) -> RunState:
        """Load a checkpoint, and return its state."""


def decide(trainer: Faulty, step: int, result: StepResult) -> str:
    """Return "skip" or "rollback" for a step that was not finite (host sync).

    Raises:
        NumericalError: [training].on_nonfinite is "stop", or there have been too many such steps.
    """
    numbers = f"loss {result.loss.item()}, gradient norm {result.grad_norm.item()}"
    whole = trainer.learner.parallelism.whole
    first = f"the first that is not: {first_not_finite(trainer.model, result.grad_norms, whole)}"
    scaler = trainer.learner.scaler
    scale = f", loss scale {scaler.get_scale():g}" if scaler.is_enabled() else ""
    description = f"step {step}: not finite: {numbers}{scale}; {first}"
    with trainer.ranks.collective_errors():
        policy = trainer.step_guard.decide(description)
    trainer.reporter.say(f"warning: {description}: {policy}")
    return policy


def roll_back(trainer: Faulty, step: int, result: StepResult, logger: Logger) -> None:
    """Return to the newest checkpoint, and skip the batches since, up to that of `step`.

    A later step may have been taken: it is forgotten, and its batch comes again.

    Source: Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, section 5.1.
    """
    found = trainer.run.resume_point("must", trainer.reporter, trainer.ranks)
    assert found
    guard = trainer.step_guard
    guard.leave_out(step - found.step)
    trainer.undecided.clear()
    if result.window is not None:
        guard.window = result.window
    trainer.load(found)
    trainer.reporter.say(f"back to step {trainer.step}; {guard.num_left_out} batches are left out")
    with trainer.ranks.while_rank_0_works():
        logger.rewind(trainer.step)
