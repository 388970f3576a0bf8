"""Learning-rate schedules: the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import NamedTuple

from transformerlm.config import ScheduleConfig

MAX_WARMUP_FRACTION = 0.1
"""Longest warm-up of a run whose length was not chosen in steps, as a fraction of its steps."""


def lr_factor(
    step: int, schedule: ScheduleConfig, total_steps: float, warmup_steps: float | None = None
) -> float:
    """Return the learning rate of `step` under [schedule] as a fraction of its peak, from 0 to 1.

    `total_steps` is the end of the schedule: `cosine_steps`, or the steps of the budget. It may be fractional
    and change from step to step (a budget in time can only be estimated), and it may be less than the
    warm-up, which is then cut short. `warmup_steps` takes the place of the schedule's own.
    """
    last = schedule.final_lr_fraction
    warmup_steps = schedule.warmup_steps if warmup_steps is None else warmup_steps
    if schedule.name == "cosine":
        return cosine_schedule(step, 1.0, last, warmup_steps, total_steps)
    return wsd_schedule(step, 1.0, last, warmup_steps, schedule.decay_fraction * total_steps, total_steps)


def fitted_warmup(warmup_steps: float, total_steps: float) -> float:
    """Return `warmup_steps`, but at most a tenth of `total_steps`: no run ends in its warm-up."""
    return min(warmup_steps, MAX_WARMUP_FRACTION * total_steps)


class Anneal(NamedTuple):
    """An early end of a schedule: the learning rate falls linearly from `step` on, until the run ends."""

    step: int
    """The last step before the fall."""
    factor: float
    """The learning rate of that step, as a fraction of the peak."""
    last_step: int
    """The step at which the final learning rate is reached, unless the budget ends before."""

    def lr_factor(self, step: int, final: float, total_steps: float) -> float:
        """Return the learning rate of `step` as a fraction of the peak.

        Args:
            final: the final learning rate, as a fraction of the peak.
            total_steps: the end of the budget, which may come before `last_step`.
        """
        end = min(self.last_step, total_steps)
        if step >= end:
            return final
        return final + (end - step) / (end - self.step) * (self.factor - final)


def anneal_steps(step: int, decay_fraction: float, steps_left: float) -> float:
    """Return the length of a decay that begins after `step`: as if the run had been planned to end with it.

    The decay is then `decay_fraction` of all steps, those until `step` included; at most `steps_left`.

    Source: Haegele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", 2024:
    a decay can begin at any step of a constant learning rate, and its length is a fraction of all steps.
    """
    if decay_fraction >= 1:
        return steps_left
    return min(steps_left, step * decay_fraction / (1 - decay_fraction))


def cosine_schedule(
    step: int, max_learning_rate: float, min_learning_rate: float, warmup_steps: float, cosine_steps: float
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
    warmup_steps: float,
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
