"""Work between the steps of a run and at its end: how long it takes, and how many steps fit beside it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations
from typing import NamedTuple

from transformerlm.config import TrainConfig
from transformerlm.nn.accounting import checkpoint_bytes
from transformerlm.training.timers import SAMPLING, SAVING, VALIDATING, Clock

BYTES_SAVED_PER_SECOND = 200e6
"""Assumed speed of writing a checkpoint, including hashing and flushing, until one has been written."""
ENDING = "ending"
"""Pause at the end of a run: last messages, the end of the process."""


class Pause(NamedTuple):
    """Work between steps: validating, sampling, saving."""

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


class Pauses:
    """Durations of validating, sampling and saving: the mean so far, or an estimate before the first."""

    def __init__(self, config: TrainConfig, clock: Clock, validation_tokens: int) -> None:
        self.clock, self._config = clock, config.training
        # A forward pass takes a third of a step.
        self._validation_steps = validation_tokens / tokens_per_step(config) / 3
        self._saving_seconds = checkpoint_bytes(config.model, config.optimizer.name) / BYTES_SAVED_PER_SECOND
        self.validating_seconds: float | None = None
        """Duration of a validation, as the caller has estimated it; None: from the seconds of a step."""
        self.sampling_seconds = 0.0
        """Duration of writing samples, as the caller has estimated it."""
        self.ending_seconds = 0.0
        """Duration of ENDING, as the caller has estimated it."""
        self.validations_at_end = 0
        """How many times as long as a validation the end is, where the validation text is scored again."""

    def at(self, seconds_per_step: float) -> dict[str, Pause]:
        """Return all by kind. A validation counts as followed by saving, since it is usually the best so
        far."""
        every = self._config.validate_every, self._config.checkpoint_every
        validating, saving = self.clock.mean(VALIDATING), self.clock.mean(SAVING)
        sampling = self.clock.mean(SAMPLING)
        if validating is None:
            validating = self.validating_seconds
        if validating is None:
            validating = self._validation_steps * seconds_per_step
        if saving is None:
            saving = self._saving_seconds
        if sampling is None:
            sampling = self.sampling_seconds
        saved_every = min(filter(None, every), default=0)
        return {
            VALIDATING: Pause(validating, every[0]),
            SAVING: Pause(saving, saved_every),
            SAMPLING: Pause(sampling, self._config.sample_every or 0),
            ENDING: Pause(self.ending_seconds + self.validations_at_end * validating, 0),
        }


def tokens_per_step(config: TrainConfig) -> int:
    """Return the tokens of an optimizer step, over all devices."""
    return config.training.batch_size * config.model.context_length
