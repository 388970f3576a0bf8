"""Budgets of a run: a number of steps or tokens, or a time, whose steps are estimated during the run.

Passes over the text, and an early end that has begun, limit the steps of either. Budgets only compute: the
trainer keeps the clock and stops.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from transformerlm.config import TrainConfig
from transformerlm.optim import Anneal, anneal_steps, fitted_warmup, lr_factor
from transformerlm.training.pauses import Pauses, seconds_of_steps, steps_that_fit, tokens_per_step
from transformerlm.training.timers import FIRST, STARTING, Clock, duration

UNKNOWN_STEPS = 10**9
"""Steps of a run whose pace is not known yet: so many that its schedule is still at its beginning."""


class Budget(ABC):
    """Length of a run, the remaining part of it, and the learning rate, which ends with it."""

    bar: tuple[int, str]
    """Size and unit of a progress bar over the whole budget."""

    def __init__(self, config: TrainConfig, pauses: Pauses, train_tokens: float) -> None:
        self.pauses, self._schedule = pauses, config.schedule
        self.tokens_per_step = tokens_per_step(config)
        self.pass_steps = config.training.steps_in_passes(config.model.context_length, train_tokens)
        """Steps in [training].max_passes; None if it is not set."""
        self.anneal: Anneal | None = None
        """The early end of the run, if it has begun."""
        self.completed_seconds = 0.0
        """The longest time budget that this run has used up."""
        self.expected_pace: float | None = None
        """Seconds of a step, estimated by the caller before some have been measured."""

    @abstractmethod
    def used(self, step: int) -> int:
        """Return the units of `bar` that are used up after `step` steps."""

    @abstractmethod
    def done(self, step: int) -> str:
        """Describe `used` in words."""

    @abstractmethod
    def steps_left(self, step: int) -> float:
        """Return the number of steps after `step` until the run ends, as it is known now."""

    @abstractmethod
    def end_step(self, step: int) -> float:
        """Return the step at which the run ends, estimated before `step` is taken."""

    @abstractmethod
    def has_room_for(self, kind: str, step: int) -> bool:
        """Return True if there is time to validate or save now, and then for one more step and the end."""

    @abstractmethod
    def seconds_left(self, step: int, seconds_per_step: float) -> float:
        """Return the seconds until the end, at this pace."""

    @abstractmethod
    def whole_run(self, seconds_per_step: float) -> tuple[float, float]:
        """Return the steps and seconds of a whole run, at this pace."""

    @property
    @abstractmethod
    def is_chosen_in_steps(self) -> bool:
        """True if the config sets the number of steps, and no other limit comes before it."""

    def is_spent(self, step: int) -> bool:
        """Return True if `step` was the last one."""
        return self.steps_left(step) < 0.5

    def complete(self, step: int) -> None:
        """Record that the budget is used up, so that a resumed run does not start it again.

        Steps need no record.
        """
        return

    @property
    def max_steps(self) -> float:
        """The steps after which passes over the text or an early end end the run; infinite without them."""
        limits = self.pass_steps, self.anneal and self.anneal.last_step
        return min((limit for limit in limits if limit is not None), default=math.inf)

    def ended_by(self, step: int) -> Literal["anneal", "passes", "budget"]:
        """Return what has ended a run after `step` steps."""
        if self.anneal is not None and step >= self.anneal.last_step:
            return "anneal"
        is_limit = self.pass_steps is not None and not self.is_chosen_in_steps
        return "passes" if is_limit and step >= (self.pass_steps or 0) else "budget"

    def schedule_steps(self, step: int) -> float:
        """Return [schedule].cosine_steps, or the end of the run, estimated before `step` is taken."""
        return self._schedule.cosine_steps or self.end_step(step)

    def lr_factor(self, step: int) -> float:
        """Return the learning rate of `step`, which is about to be taken, as a fraction of its peak."""
        if self.anneal is not None:
            return self.anneal.lr_factor(step, self._schedule.final_lr_fraction, self.end_step(step))
        warmup_steps: float = self._schedule.warmup_steps
        if not self.is_chosen_in_steps:
            warmup_steps = fitted_warmup(warmup_steps, self.end_step(step))
        return lr_factor(step, self._schedule, self.schedule_steps(step), warmup_steps)

    def begin_anneal(self, step: int) -> Anneal:
        """Let the learning rate fall from now on, and the run end with it; a fall that has begun goes on."""
        if self.anneal is None:
            factor, steps = self.lr_factor(step), self.steps_left(step)
            if self._schedule.cosine_steps:
                steps = min(steps, max(0, self._schedule.cosine_steps - step))
            length = anneal_steps(step, self._schedule.decay_fraction, steps)
            self.anneal = Anneal(step, factor, step + math.ceil(length))
        return self.anneal

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on with an early end."""
        return {"anneal": list(self.anneal or ()), "size": [*self.bar]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state`. An early end belongs to its budget: a larger one trains on."""
        self.anneal = None
        if state.get("anneal") and list(state["size"]) == [*self.bar]:
            step, factor, last_step = state["anneal"]
            self.anneal = Anneal(int(step), float(factor), int(last_step))


def make_budget(config: TrainConfig, clock: Clock, train_tokens: float, validation_tokens: int = 0) -> Budget:
    """Return the budget of [training].

    Args:
        config: with a known vocabulary size.
        clock: the run's clock, which the caller advances.
        train_tokens: number of tokens in a pass over the text.
        validation_tokens: number of tokens of a validation.
    """
    pauses = Pauses(config, clock, validation_tokens)
    if config.training.max_time is None:
        return StepBudget(config, pauses, train_tokens)
    return TimeBudget(config, pauses, train_tokens)


class StepBudget(Budget):
    """A number of steps, or of tokens, rounded up to whole steps, or of passes, rounded down."""

    def __init__(self, config: TrainConfig, pauses: Pauses, train_tokens: float) -> None:
        super().__init__(config, pauses, train_tokens)
        self._steps = config.training.steps_in_budget(config.model.context_length)
        self._max_tokens = config.training.max_tokens if self.is_chosen_in_steps else None
        self.bar = (self._max_tokens, "token") if self._max_tokens else (int(self._end), "step")

    def __str__(self) -> str:
        steps = self.bar[0] if not self._max_tokens else self._steps
        if self._max_tokens:
            return f"{self._max_tokens:,} tokens in {steps} steps of {self.tokens_per_step:,}"
        return f"{steps} steps of {self.tokens_per_step:,} tokens"

    @property
    def is_chosen_in_steps(self) -> bool:
        """True if the steps of the budget come before those of [training].max_passes."""
        return self._steps is not None and self._steps <= (self.pass_steps or math.inf)

    @property
    def _end(self) -> float:
        return min(self._steps or math.inf, self.max_steps)

    def used(self, step: int) -> int:
        """Return the steps, or the tokens."""
        return min(step * self.tokens_per_step, self._max_tokens) if self._max_tokens else step

    def done(self, step: int) -> str:
        """Return for example `7 of 10 steps done`."""
        size, unit = self.bar
        numbers = f"{self.used(step):,} of {size:,}" if unit == "token" else f"{step} of {size}"
        return f"{numbers} {unit}s done"

    def steps_left(self, step: int) -> float:
        """Return the exact number."""
        return max(0, self._end - step)

    def end_step(self, step: int) -> float:
        """Return the number of steps."""
        return self._end

    def has_room_for(self, kind: str, step: int) -> bool:
        """Return True: time is not limited."""
        return True

    def seconds_left(self, step: int, seconds_per_step: float) -> float:
        """Return the seconds of the remaining steps alone."""
        return self.steps_left(step) * seconds_per_step

    def whole_run(self, seconds_per_step: float) -> tuple[float, float]:
        """Return the number of steps, and their seconds with validating and saving."""
        pauses = tuple(self.pauses.at(seconds_per_step).values())
        return self._end, seconds_of_steps(self._end, 0, seconds_per_step, pauses)


class TimeBudget(Budget):
    """A time, from the start of the command to its end.

    The remaining steps are estimated from the run's mean pace, so that the schedule advances in proportion to
    the time spent: a slow minute has little effect, and the schedule ends when the time does.
    """

    def __init__(self, config: TrainConfig, pauses: Pauses, train_tokens: float) -> None:
        super().__init__(config, pauses, train_tokens)
        self._clock = pauses.clock
        self.max_time, self.max_seconds = config.training.max_time, config.training.max_seconds or 0.0
        self.bar = math.ceil(self.max_seconds), "s"

    def __str__(self) -> str:
        return f"{self.max_time} of steps of {self.tokens_per_step:,} tokens"

    @property
    def is_chosen_in_steps(self) -> bool:
        """False."""
        return False

    def used(self, step: int) -> int:
        """Return the seconds."""
        return int(min(self.max_seconds, self._clock.elapsed))

    def done(self, step: int) -> str:
        """Return for example `12m05s of 20m done, 700 steps`."""
        return f"{duration(self._clock.elapsed)} of {self.max_time} done, {step} steps"

    def steps_left(self, step: int) -> float:
        """Return the number for which there is time, at the mean pace."""
        return self._steps_left(step, self._clock.pace or self._clock.mean(FIRST))

    def end_step(self, step: int) -> float:
        """Return the number of steps at the mean pace; before it is known, at the expected one."""
        pace = self._clock.pace or self.expected_pace
        return min(self.max_steps, max(step, step - 1 + self._steps_left(step - 1, pace)))

    def has_room_for(self, kind: str, step: int) -> bool:
        """Return True if there is time for a step after it."""
        return self._steps_left(step, self._clock.pace or self._clock.mean(FIRST), kind) >= 1

    def seconds_left(self, step: int, seconds_per_step: float) -> float:
        """Return the remaining seconds of the budget, or of the steps if another limit comes before it."""
        seconds = max(0.0, self.max_seconds - self._clock.elapsed)
        if self.max_steps == math.inf:
            return seconds
        pauses = tuple(self.pauses.at(seconds_per_step).values())
        steps = max(0, self.max_steps - step)
        return min(seconds, seconds_of_steps(steps, step, seconds_per_step, pauses))

    def whole_run(self, seconds_per_step: float) -> tuple[float, float]:
        """Return the number of steps that fit, and the time."""
        pauses = tuple(self.pauses.at(seconds_per_step).values())
        starting = self._clock.mean(STARTING) or 0.0
        steps = steps_that_fit(self.max_seconds - starting, 0, seconds_per_step, pauses)
        if steps <= self.max_steps:
            return steps, self.max_seconds
        seconds = starting + seconds_of_steps(self.max_steps, 0, seconds_per_step, pauses)
        return self.max_steps, seconds

    def complete(self, step: int) -> None:
        """Record it: a resumed run would otherwise have some milliseconds left."""
        if step < self.max_steps:
            self.completed_seconds = max(self.completed_seconds, self.max_seconds)

    def _steps_left(self, step: int, pace: float | None, before: str | None = None) -> float:
        """Return the steps for which there is time after `step` and after a pause of kind `before`."""
        seconds, limit = self.max_seconds - self._clock.elapsed, max(0, self.max_steps - step)
        if self.max_seconds <= self.completed_seconds:
            return 0.0
        if seconds <= 0:
            return min(limit, 1.0) if step == 0 else 0.0  # a time that is over at the start is one step
        if pace is None:
            return min(limit, UNKNOWN_STEPS)
        pauses = self.pauses.at(pace)
        seconds -= pauses[before].seconds if before else 0.0
        steps = steps_that_fit(seconds, step, pace, tuple(pauses.values()))
        # A first step includes compilation and says little about the next one, which is always allowed.
        return min(limit, steps if self._clock.pace else max(1.0, steps))
