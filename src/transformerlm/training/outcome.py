"""Progress of a trainer, for the run's heartbeat, and how the run has ended."""

from __future__ import annotations

import math
import signal
from typing import Any

import torch

from transformerlm.control import Outcome
from transformerlm.control.heartbeat import COMPLETE, STOPPED
from transformerlm.training.timers import FIRST
from transformerlm.training.trainer import Trainer

ENDED_BY = {
    "budget": "the budget is used up",
    "passes": "the text is used up",
    "anneal": "ended early, with the learning rate at its end",
}


def progress_of(trainer: Trainer, step: int) -> dict[str, Any]:
    """Return the fields of a heartbeat that the trainer knows, after `step` steps."""
    budget, clock = trainer.budget, trainer.rank_sync.clock
    pace = clock.pace or clock.mean(FIRST)
    end_step = budget.end_step(step) if pace else math.inf
    seconds_left = budget.seconds_left(step, pace) if pace else math.inf
    device = trainer.runtime.device
    return {
        "done": "" if budget.bar[1] == "step" else budget.done(step),
        "end_step": int(end_step) if math.isfinite(end_step) else None,
        "seconds_left": seconds_left if math.isfinite(seconds_left) else None,
        "bits_per_byte": trainer.best.evaluation.bits_per_byte if trainer.best else None,
        # What PyTorch's allocator holds: a number of the host's, without a host sync.
        "device_memory_bytes": torch.cuda.memory_reserved(device) if device.type == "cuda" else None,
    }


def outcome_of(trainer: Trainer) -> Outcome:
    """Return how training has ended: complete, or stopped by a signal or a request."""
    received, step = trainer.rank_sync.received, trainer.step
    result = trainer.chosen if received is None else trainer.best
    bits = result.evaluation.bits_per_byte if result else None
    if received is None:
        return Outcome(COMPLETE, ENDED_BY[trainer.budget.ended_by(step)], step, bits)
    reason = "on request" if trainer.rank_sync.is_asked_to_stop else signal.Signals(received).name
    return Outcome(STOPPED, f"{reason}; the same command goes on", step, bits)
