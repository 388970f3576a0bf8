"""Requests from outside, acted on between two steps: save, validate, stop, anneal.

All ranks act at the same step: rank 0 reads the requests, and `RankSync.sync` shares what was asked. What is
asked does not change the steps themselves, but for "stop" and "anneal".
"""

from __future__ import annotations

from typing import Protocol

from transformerlm.checkpoint.store import checkpoint_name
from transformerlm.control import Kind, RunControl
from transformerlm.evaluation.loss import Validation
from transformerlm.logging import Logger
from transformerlm.progress import Reporter
from transformerlm.training.budget import Budget
from transformerlm.training.rank_sync import RankSync

ORDER: tuple[Kind, ...] = ("anneal", "validate", "save", "stop")
"""Of several requests at one step, a checkpoint has the result of the others, and stopping comes last."""


class Steerable(Protocol):
    """Part of a Trainer that is needed here."""

    control: RunControl
    rank_sync: RankSync
    budget: Budget
    reporter: Reporter
    step: int
    best: Validation | None
    newest: Validation | None
    since_best: int
    saved: tuple[int, bool] | None

    def validate(self, logger: Logger) -> None:
        """Validate, unless that was done after this step."""

    def save(self, logger: Logger, *, is_last: bool = False) -> None:
        """Save a checkpoint of this step, unless there is one."""


def obey(trainer: Steerable, logger: Logger) -> None:
    """Record a step, then do what has been asked since the step before; nothing after the run's last step.

    After the last step all is saved and validated in any case, and `RunControl` answers.
    """
    trainer.control.beat(trainer.step)
    if not trainer.rank_sync.requested or trainer.budget.is_spent(trainer.step):
        return
    asked = trainer.rank_sync.take_requests()
    for kind in (kind for kind in ORDER if kind in asked):
        if kind == "stop":  # answered when the run has ended
            trainer.reporter.say(f"asked to stop by {trainer.control.askers(kind)}")
            trainer.rank_sync.stop()
            continue
        is_done, text = {"anneal": _anneal, "validate": _validate, "save": _save}[kind](trainer, logger)
        trainer.reporter.say(f"asked to {kind} by {trainer.control.askers(kind)}: {text}")
        trainer.control.answer(kind, text, is_done=is_done)


def _save(trainer: Steerable, logger: Logger) -> tuple[bool, str]:
    trainer.save(logger)
    if trainer.saved is None or trainer.saved[0] != trainer.step:
        return False, f"step {trainer.step} could not be saved; the run says why"
    return True, f"saved after step {trainer.step}: checkpoints/{checkpoint_name(trainer.step)}"


def _validate(trainer: Steerable, logger: Logger) -> tuple[bool, str]:
    """Validate; a best validation is saved like any other, a worse one does not count for the patience."""
    since_best = trainer.since_best
    trainer.validate(logger)
    newest = trainer.newest
    if newest is None or newest.step != trainer.step:
        return False, "there is no validation text"
    if trainer.best is newest:
        trainer.save(logger)
    else:
        trainer.since_best = since_best
    bits, loss = newest.evaluation.bits_per_byte, newest.evaluation.loss
    best = "the best so far" if trainer.best is newest else "not the best so far"
    return True, f"validated after step {trainer.step}: {bits:.3f} bits per byte (loss {loss:.3f}), {best}"


def _anneal(trainer: Steerable, logger: Logger) -> tuple[bool, str]:
    """Begin the early end of the run, and save, so that it is not lost if the run is killed."""
    has_begun = trainer.budget.anneal is not None
    anneal = trainer.budget.begin_anneal(trainer.step)
    if not has_begun:
        trainer.saved = None  # a checkpoint of this step would be one without the early end
    is_saved, what = _save(trainer, logger)
    since = f"the learning rate falls {'since' if has_begun else 'from'} step {anneal.step}"
    not_saved = "" if is_saved else f"; {what}"
    return True, f"{since}, and the run ends at step {anneal.last_step} at the latest{not_saved}"
