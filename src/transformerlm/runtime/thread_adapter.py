"""Adaptation of the number of threads to other work on the machine, between steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from transformerlm.kernels.load import Reading, cores_of_others, read_load
from transformerlm.runtime.load_policy import CROWDED, Observation, ThreadPolicy

SECONDS = 0.3
"""Duration of the steps that are observed together: long against a tick of the system."""
FIRST_STEPS = 3
"""First steps of a process that are not observed: they are atypically slow."""


@dataclass(frozen=True)
class ThreadChange:
    """Another number of threads. From here on the last bits of a result may differ."""

    before: int
    """The last number that was to stay."""
    num_threads: int
    others: float
    """Processors that other work keeps busy."""
    is_lasting: bool
    """False at the beginning of a trial, and at the end of one that has not helped."""

    def __str__(self) -> str:
        if self.others >= CROWDED:
            why = f"other work keeps {self.others:.1f} processors busy"
        elif self.num_threads < self.before:  # it is not there all the time
            why = "other work comes and goes"
        else:
            why = "the machine is quiet again"
        return f"threads: {self.before} -> {self.num_threads}, since {why}"


class ThreadAdapter:
    """Observes steps and sets the number of threads of PyTorch, and so of the kernels.

    Args:
        max_threads: number of threads for a quiet machine.
        read: reads the load of the machine.
        set_num_threads: applies a number.
    """

    def __init__(
        self,
        max_threads: int,
        read: Callable[[], Reading] = read_load,
        set_num_threads: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        self._read, self._set_num_threads = read, set_num_threads
        self._newest = read()
        self.policy = ThreadPolicy(max_threads, self._newest.cores)
        self._lasting = max_threads
        self._steps, self._seconds = 0.0, 0.0
        """Steps and their seconds up to the newest observation."""

    def after_steps(self, steps: float, seconds: float) -> ThreadChange | None:
        """Observe the steps since the last observation, if that was long enough ago; return a change.

        Args:
            steps: steps so far.
            seconds: their seconds; validating and saving do not count.
        """
        new_steps, new_seconds = steps - self._steps, seconds - self._seconds
        if new_seconds < SECONDS or steps <= FIRST_STEPS:
            return None
        self._steps, self._seconds = steps, seconds
        now, last = self._read(), self._newest
        self._newest, others, before = now, cores_of_others(last, now), self.policy.num_threads
        number = self.policy.decide(Observation(new_seconds / new_steps, now.wall - last.wall, others))
        if number != before:
            self._set_num_threads(number)
        return self._change(before, number, others or 0.0)

    def _change(self, before: int, number: int, others: float) -> ThreadChange | None:
        lasting = self._lasting
        if not self.policy.is_trial:
            self._lasting = number
        is_lasting = self._lasting != lasting
        return ThreadChange(lasting, number, others, is_lasting) if number != before or is_lasting else None

    def stop(self) -> None:
        """Return to the number of threads for a quiet machine."""
        self._set_num_threads(self.policy.max_threads)
