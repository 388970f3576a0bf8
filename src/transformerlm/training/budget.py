"""Budgets of a run: a number of steps or tokens, or a time, whose steps are estimated during the run.

Budgets only compute: the trainer keeps the clock and stops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, combinations
from typing import NamedTuple, Protocol

from transformerlm.config import TrainConfig
from transformerlm.nn.accounting import checkpoint_bytes
from transformerlm.training.timers import FIRST, SAVING, VALIDATING, Clock, duration

BYTES_SAVED_PER_SECOND = 200e6
"""Assumed speed of writing a checkpoint, including hashing and flushing, until one has been written."""
UNKNOWN_STEPS = 10**9
"""Steps of a run whose pace is not known yet: so many that its schedule is still at its beginning."""


class Pause(NamedTuple):
    """Work between steps: validating, saving."""

    seconds: float
    every: int
    """Interval in steps; 0: only at the end, where it occurs in any case."""

    def due(self, step: int) -> int:
        """Return the number of steps after `step` until it occurs next."""
        return self.every - step % self.every


def seconds_of_steps(steps: float, step: int, seconds_per_step: float, pauses: Sequence[Pause]) -> float:
    """Return the seconds that `steps` more steps after `step` take, pauses included.

    steps * seconds_per_step + sum over pauses of  seconds * (1 + max(0, steps - due) / every),
    where `due` steps remain until a pause occurs next, and the 1 is the pause at the end. Later pauses are
    spread evenly over the steps, so that the estimate does not jump at one.
    """
    seconds = steps * seconds_per_step
    for pause in pauses:
        later = max(0.0, steps - pause.due(step)) / pause.every if pause.every else 0.0
        seconds += pause.seconds * (1 + later)
    return seconds


def steps_that_fit(seconds: float, step: int, seconds_per_step: float, pauses: Sequence[Pause]) -> float:
    """Inverse of `seconds_of_steps`: the steps, as a fraction, that take `seconds`; at least 0."""
    at_end = sum(pause.seconds for pause in pauses)
    regular = [pause for pause in pauses if pause.every]
    # Each maximum is the larger of two linear functions. So the seconds are the largest of all sums that
    # choose one function for each pause, and the steps are the fewest that any of these sums allows.
    some_of_them = chain.from_iterable(combinations(regular, size) for size in range(len(regular) + 1))
    return max(0.0, min(_solve(seconds - at_end, step, seconds_per_step, some) for some in some_of_them))


def _solve(seconds: float, step: int, seconds_per_step: float, pauses: Sequence[Pause]) -> float:
    not_due = sum(pause.seconds * pause.due(step) / pause.every for pause in pauses)
    return (seconds + not_due) / (seconds_per_step + sum(pause.seconds / pause.every for pause in pauses))


class Budget(Protocol):
    """Length of a run, and the remaining part of it."""

    tokens_per_step: int
    bar: tuple[int, str]
    """Size and unit of a progress bar over the whole budget."""
    completed_seconds: float
    """The longest time budget that this run has used up."""

    def used(self, step: int) -> int:
        """Return the units of `bar` that are used up after `step` steps."""

    def done(self, step: int) -> str:
        """Describe `used` in words."""

    def is_spent(self, step: int) -> bool:
        """Return True if `step` was the last one."""

    def schedule_steps(self, step: int) -> float:
        """Return the length of the learning rate schedule in steps, estimated before `step` is taken."""

    def has_room_for(self, kind: str, step: int) -> bool:
        """Return True if there is time to validate or save now, and then for one more step and the end."""

    def seconds_left(self, step: int, seconds_per_step: float) -> float:
        """Return the seconds until the end, at this pace."""

    def whole_run(self, seconds_per_step: float) -> tuple[float, float]:
        """Return the steps and seconds of a whole run, at this pace."""

    def complete(self) -> None:
        """Record that the budget is used up, so that a resumed run does not start it again."""


def make_budget(config: TrainConfig, clock: Clock, validation_tokens: int = 0) -> Budget:
    """Return the budget of [training].

    Args:
        config: with a known vocabulary size.
        clock: the run's clock, which the caller advances.
        validation_tokens: number of tokens of a validation.
    """
    pauses = Pauses(config, clock, validation_tokens)
    return StepBudget(config, pauses) if config.training.max_time is None else TimeBudget(config, pauses)


class Pauses:
    """Durations of validating and saving: the mean so far, or an estimate before the first."""

    def __init__(self, config: TrainConfig, clock: Clock, validation_tokens: int) -> None:
        self.clock, self._config = clock, config.training
        # A forward pass takes a third of a step.
        self._validation_steps = validation_tokens / tokens_per_step(config) / 3
        self._saving_seconds = checkpoint_bytes(config.model, config.optimizer.name) / BYTES_SAVED_PER_SECOND

    def at(self, seconds_per_step: float) -> dict[str, Pause]:
        """Return both by kind. A validation counts as followed by saving, since it is usually the best so
        far."""
        every = self._config.validate_every, self._config.checkpoint_every
        validating, saving = self.clock.mean(VALIDATING), self.clock.mean(SAVING)
        if validating is None:
            validating = self._validation_steps * seconds_per_step
        if saving is None:
            saving = self._saving_seconds
        saved_every = min(filter(None, every), default=0)
        return {VALIDATING: Pause(validating, every[0]), SAVING: Pause(saving, saved_every)}


def tokens_per_step(config: TrainConfig) -> int:
    """Return the tokens of an optimizer step, over all devices."""
    return config.training.batch_size * config.model.context_length


class StepBudget:
    """A number of steps, or of tokens, rounded up to whole steps."""

    completed_seconds = 0.0

    def __init__(self, config: TrainConfig, pauses: Pauses) -> None:
        self._max_tokens, self._pauses = config.training.max_tokens, pauses
        self._schedule_steps = config.schedule.cosine_steps
        self.tokens_per_step = tokens_per_step(config)
        self.max_steps = config.training.steps_in_budget(config.model.context_length) or 0
        self.bar = (self._max_tokens, "token") if self._max_tokens else (self.max_steps, "step")

    def __str__(self) -> str:
        if self._max_tokens:
            return f"{self._max_tokens:,} tokens in {self.max_steps} steps of {self.tokens_per_step:,}"
        return f"{self.max_steps} steps of {self.tokens_per_step:,} tokens"

    def used(self, step: int) -> int:
        """Return the steps, or the tokens."""
        return min(step * self.tokens_per_step, self._max_tokens) if self._max_tokens else step

    def done(self, step: int) -> str:
        """Return for example `7 of 10 steps done`."""
        size, unit = self.bar
        numbers = f"{self.used(step):,} of {size:,}" if unit == "token" else f"{step} of {size}"
        return f"{numbers} {unit}s done"

    def is_spent(self, step: int) -> bool:
        """Return True if all steps are done."""
        return step >= self.max_steps

    def schedule_steps(self, step: int) -> float:
        """Return the number of steps, or [schedule].cosine_steps."""
        return self._schedule_steps or self.max_steps

    def has_room_for(self, kind: str, step: int) -> bool:
        """Return True: time is not limited."""
        return True

    def seconds_left(self, step: int, seconds_per_step: float) -> float:
        """Return the seconds of the remaining steps alone."""
        return max(0, self.max_steps - step) * seconds_per_step

    def whole_run(self, seconds_per_step: float) -> tuple[float, float]:
        """Return the number of steps, and their seconds with validating and saving."""
        pauses = tuple(self._pauses.at(seconds_per_step).values())
        return self.max_steps, seconds_of_steps(self.max_steps, 0, seconds_per_step, pauses)

    def complete(self) -> None:
        """Do nothing: the number of steps shows it."""


class TimeBudget:
    """A time, with validating and saving included.

    The remaining steps are estimated from the run's mean pace, so that the schedule advances in proportion to
    the time spent: a slow minute has little effect, and the schedule ends when the time does.
    """

    completed_seconds = 0.0

    def __init__(self, config: TrainConfig, pauses: Pauses) -> None:
        self._pauses, self._clock = pauses, pauses.clock
        self._schedule_steps = config.schedule.cosine_steps
        self.tokens_per_step = tokens_per_step(config)
        self.max_time, self.max_seconds = config.training.max_time, config.training.max_seconds or 0.0
        self.bar = math.ceil(self.max_seconds), "s"

    def __str__(self) -> str:
        return f"{self.max_time} of steps of {self.tokens_per_step:,} tokens"

    def used(self, step: int) -> int:
        """Return the seconds."""
        return int(min(self.max_seconds, self._clock.elapsed))

    def done(self, step: int) -> str:
        """Return for example `12m05s of 20m done, 700 steps`."""
        return f"{duration(self._clock.elapsed)} of {self.max_time} done, {step} steps"

    def is_spent(self, step: int) -> bool:
        """Return True if there is time for less than half a step."""
        return self._steps_left(step) < 0.5

    def schedule_steps(self, step: int) -> float:
        """Return the number of steps at the mean pace, or [schedule].cosine_steps."""
        if self._schedule_steps is None and self._clock.pace is None:
            return UNKNOWN_STEPS
        return self._schedule_steps or max(step, step - 1 + self._steps_left(step - 1))

    def has_room_for(self, kind: str, step: int) -> bool:
        """Return True if there is time for a step after it."""
        return self._steps_left(step, kind) >= 1

    def seconds_left(self, step: int, seconds_per_step: float) -> float:
        """Return the remaining seconds of the budget; the pace does not matter."""
        return max(0.0, self.max_seconds - self._clock.elapsed)

    def whole_run(self, seconds_per_step: float) -> tuple[float, float]:
        """Return the number of steps that fit, and the time."""
        pauses = tuple(self._pauses.at(seconds_per_step).values())
        return steps_that_fit(self.max_seconds, 0, seconds_per_step, pauses), self.max_seconds

    def complete(self) -> None:
        """Record it: a resumed run would otherwise have some milliseconds left."""
        self.completed_seconds = max(self.completed_seconds, self.max_seconds)

    def _steps_left(self, step: int, before: str | None = None) -> float:
        """Return the steps for which there is time after `step` and after a pause of kind `before`."""
        seconds = self.max_seconds - self._clock.elapsed
        if self.max_seconds <= self.completed_seconds or seconds <= 0:
            return 0.0
        pace = self._clock.pace or self._clock.mean(FIRST)
        if pace is None:
            return UNKNOWN_STEPS
        pauses = self._pauses.at(pace)
        seconds -= pauses[before].seconds if before else 0.0
        steps = steps_that_fit(seconds, step, pace, tuple(pauses.values()))
        # A first step includes compilation and says little about the next one, which is always allowed.
        return steps if self._clock.pace else max(1.0, steps)
