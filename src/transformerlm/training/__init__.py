"""Training: a config, token files and a tokenizer in; a run's folder with a trained model out.

Read `run.py` (a whole run), `assembly.py` (its parts), `trainer.py` (the loop) and `learner.py` (one step) in
this order. `budget.py`, `pauses.py` and `timers.py` determine the length of a run, `memory.py` and
`microbatch.py` the size of micro-batches, `batches.py` what is in them, `step_guard.py` the steps to skip,
`faults.py` what follows those that are not finite, `step_values.py` what is logged of a step, `run_state.py`
the content of a checkpoint, `rank_sync.py` common decisions of several ranks; `plan.py` estimates a run, and
`verify_resume.py` verifies that a resumed run computes the same bits.

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
