"""Training: a config, token files and a tokenizer in; a run's folder with a trained model out.

Read `run.py` (a whole run), `trainer.py` (the loop) and `learner.py` (one step) in this order. `budget.py`
and `timers.py` say how long a run goes on, `memory.py` and `microbatch.py` how much goes through the model
at a time, `step_guard.py` which steps are not taken, `run_state.py` what a checkpoint holds, `rank_sync.py`
what several ranks decide by, `plan.py` what a run would take, and `verify_resume.py` proves that a stopped
run goes on to the same bits.

Names are imported when they are first used: importing this package needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformerlm.training.plan import Plan, plan_lines
    from transformerlm.training.run import TrainingResult, plan_run, train, verify_run
    from transformerlm.training.trainer import Trainer

__all__ = ["Plan", "Trainer", "TrainingResult", "plan_lines", "plan_run", "train", "verify_run"]

_HOMES = {
    "plan": {"Plan", "plan_lines"},
    "run": {"TrainingResult", "plan_run", "train", "verify_run"},
    "trainer": {"Trainer"},
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"transformerlm.training.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
