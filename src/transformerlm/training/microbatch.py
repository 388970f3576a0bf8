"""Micro-batches: sequences per forward pass, fewer if memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from transformerlm.config import TrainConfig
from transformerlm.errors import ConfigError, Key, TransformerLMError
from transformerlm.progress import Reporter
from transformerlm.runtime import SMALLER_MICRO_BATCH, SMALLER_MODEL, first_line, is_out_of_memory, memory_for

T = TypeVar("T")


def largest_divisor(number: int, limit: float) -> int:
    """Return the largest divisor of `number` that is at most `limit`; 1 if there is none."""
    return max((size for size in range(1, number + 1) if number % size == 0 and size <= limit), default=1)


class MicroBatches:
    """Size of a micro-batch: a divisor of `batch_size` that becomes smaller if memory runs out.

    Args:
        batch_size: sequences of a step on this device.
        size: initial size.
        can_shrink: False if other ranks take part in every pass: running out of memory is then an error.
    """

    def __init__(self, batch_size: int, size: int, reporter: Reporter, *, can_shrink: bool = True) -> None:
        self.batch_size, self.size, self.can_shrink = batch_size, size, can_shrink
        self._reporter = reporter
        self.limit: int | None = None
        """Size that fitted in memory after it had run out; None if it never did."""

    def restrict(self, limit: int | None) -> None:
        """Use at most `limit` sequences at a time, the limit that an earlier process found; None: no
        limit."""
        if limit is not None:
            self.limit, self.size = limit, largest_divisor(self.batch_size, min(self.size, limit))

    def fix_size(self, size: float) -> None:
        """Lower the size to `size`, the minimum over all ranks, and keep it from now on."""
        if size < self.size:
            before = self.size
            self.restrict(int(size))
            self._reporter.say(f"out of memory on another rank: {_smaller(self.size, before)}")
        self.can_shrink = False

    def run(self, attempt: Callable[[int], T], clear: Callable[[], object] = lambda: None) -> T:
        """Return `attempt(size)`; if memory runs out, call `clear()` and try the next smaller size.

        Raises:
            TransformerLMError: a single sequence, or a size that cannot shrink, takes too much memory.
        """
        while self.can_shrink:
            try:
                return attempt(self.size)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # Outside of the except block: the error, and the frames that hold the attempt's tensors, are
            # freed.
            clear()
            self._shrink(reason)
        advice = SMALLER_MICRO_BATCH if self.size > 1 else SMALLER_MODEL
        with memory_for(f"{self.size} sequences at a time", advice):
            return attempt(self.size)

    def _shrink(self, reason: str) -> None:
        if self.size == 1:
            raise TransformerLMError(f"out of memory with one sequence at a time: {SMALLER_MODEL} ({reason})")
        before, self.size = self.size, largest_divisor(self.batch_size, self.size - 1)
        self.limit = self.size
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._reporter.say(f"out of memory: {_smaller(self.size, before)}")


def _smaller(size: int, before: int) -> str:
    return f"going on with {size} sequences at a time instead of {before}; the mathematics is the same"


def share_of_batch(config: TrainConfig, num_ranks: int) -> int:
    """Return the sequences of a step on each rank.

    Raises:
        ConfigError: the ranks cannot have equally many, or they are no whole number of micro-batches.
    """
    training = config.training
    if training.batch_size % num_ranks:
        what = f"expected a multiple of the {num_ranks} ranks, got {training.batch_size}"
        raise ConfigError(what, key=Key("training", "batch_size"))
    share = training.batch_size // num_ranks
    if training.micro_batch_size != "auto" and share % training.micro_batch_size:
        what = f"expected a divisor of the {share} sequences of each of {num_ranks} ranks"
        what += f", got {training.micro_batch_size}"
        raise ConfigError(what, key=Key("training", "micro_batch_size"))
    return share
