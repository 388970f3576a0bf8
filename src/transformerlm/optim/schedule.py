"""The learning rate as a function of the step, and of nothing else."""

from __future__ import annotations

import math


def cosine_schedule(
    step: int, max_learning_rate: float, min_learning_rate: float, warmup_steps: int, cosine_steps: int
) -> float:
    """Linear from 0 to the maximum at `warmup_steps`, half a cosine down to the minimum at `cosine_steps`.

    The minimum is kept from then on.

    `step` counts completed optimizer steps, so the very first one runs at 0 where there is a warm-up.
    Without one, step 0 has the maximum.

    Source: Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017, equation 5
    (one period, no restart).
    """
    if step < warmup_steps:
        return step / warmup_steps * max_learning_rate
    if step >= cosine_steps:
        return min_learning_rate
    progress = (step - warmup_steps) / (cosine_steps - warmup_steps)
    return min_learning_rate + (1 + math.cos(math.pi * progress)) / 2 * (
        max_learning_rate - min_learning_rate
    )
