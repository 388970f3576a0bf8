"""Learning-rate schedules: the learning rate as a pure function of the step."""

from __future__ import annotations

import math

from transformerlm.config import ScheduleConfig


def lr_factor(step: int, schedule: ScheduleConfig, total_steps: float) -> float:
    """Return the learning rate of `step` under [schedule] as a fraction of its peak, from 0 to 1.

    `total_steps` is the end of the schedule: `cosine_steps`, or the steps of the budget. It may be fractional
    and change from step to step (a budget in time can only be estimated), and it may be less than the
    warm-up, which is then cut short.
    """
    last, warmup_steps = schedule.final_lr_fraction, schedule.warmup_steps
    if schedule.name == "cosine":
        return cosine_schedule(step, 1.0, last, warmup_steps, total_steps)
    return wsd_schedule(step, 1.0, last, warmup_steps, schedule.decay_fraction * total_steps, total_steps)


def cosine_schedule(
    step: int, max_learning_rate: float, min_learning_rate: float, warmup_steps: int, cosine_steps: float
) -> float:
    """Linear from 0 to the maximum at `warmup_steps`, half a cosine down to the minimum at `cosine_steps`.

    The minimum is kept from then on. `step` counts completed optimizer steps, so the very first step has a
    learning rate of 0 with a warm-up, and the maximum without one.

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


def wsd_schedule(
    step: int,
    max_learning_rate: float,
    min_learning_rate: float,
    warmup_steps: int,
    decay_steps: float,
    total_steps: float,
) -> float:
    """Warm-up, stable, decay: linearly up, constant, linearly down until `total_steps`.

    From 0 to the maximum at `warmup_steps`; the maximum; in the last `decay_steps` down to the minimum, which
    is kept. A decay that does not fit after the warm-up is shortened.

    Source: Hu et al., "MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training
    Strategies", 2024, equation 1; Haegele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations", 2024, for the linear decay.
    """
    if step < warmup_steps:
        return step / warmup_steps * max_learning_rate
    if step >= total_steps:
        return min_learning_rate
    remaining, length = total_steps - step, min(decay_steps, total_steps - warmup_steps)
    if remaining >= length:
        return max_learning_rate
    return min_learning_rate + remaining / length * (max_learning_rate - min_learning_rate)
