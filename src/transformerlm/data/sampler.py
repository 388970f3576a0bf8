"""Batches from token files: random windows, or every window once an epoch, and validation in order.

A training batch is a pure function of (seed, step): resuming needs to remember nothing but the step,
and the batches are the same on any number of ranks. There is no iterator here and no queue.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transformerlm.errors import ConfigError, DataError, Key

Tokens = NDArray[np.integer[Any]]
Words = NDArray[np.uint64]
Batch = tuple[Tensor, Tensor]
"""Inputs and targets, int64, each `[batch, time]`: targets[b, t] follows inputs[b, t] in the text."""

_NUM_ROUNDS = 8
_BLOCK_WINDOWS = 4096  # whose starts are worked out together: for a few it takes as long


def get_batch(
    tokens: Tokens, batch_size: int, context_length: int, device: torch.device | str = "cpu"
) -> Batch:
    """`batch_size` windows from random places of `tokens`, drawn from torch's global generator.

    Args:
        tokens: `[num_tokens]`, any integers; a memory-mapped file is read only where a window lies.

    Returns:
        Inputs and targets, `[batch_size, context_length]`.

    Raises:
        DataError: fewer than `context_length + 1` tokens.
    """
    _require(tokens, context_length)
    starts = torch.randint(len(tokens) - context_length, (batch_size,)).numpy()
    return _to_device(tokens[starts[:, None] + np.arange(context_length + 1)], device)


class BatchSampler:
    """The batch of every step, from counter-based random numbers.

    order "random": each window starts anywhere.
    order "epoch": the text, closed to a ring, is cut into windows of `context_length` at a place that
    each epoch chooses anew, and the windows are shuffled. Every window comes once an epoch and every
    token is a target once (but for fewer than `context_length` that are left over, each time others).
    A batch may end one epoch and begin the next.

    Args:
        tokens: `[num_tokens]`, any integers; a memory-mapped file is read only where a window lies.
        batch_size: windows in a step's global batch.
        context_length: tokens of a window.

    Raises:
        DataError: fewer than `context_length + 1` tokens.
    """

    def __init__(
        self,
        tokens: Tokens,
        batch_size: int,
        context_length: int,
        order: Literal["epoch", "random"] = "epoch",
        seed: int = 0,
    ) -> None:
        _require(tokens, context_length)
        # Still mapped, but no longer a np.memmap: that makes every slice of it cost microseconds.
        self.tokens = np.asarray(tokens)
        self.batch_size, self.context_length = batch_size, context_length
        self.order, self.seed = order, seed
        self.num_windows = len(tokens) // context_length
        """Windows of an epoch."""
        # From which step on, and the starts of what was worked out last. Kept for speed alone.
        self._block: tuple[int, NDArray[np.int64]] | None = None

    def batch(
        self, step: int, rank: int = 0, world_size: int = 1, device: torch.device | str = "cpu"
    ) -> Batch:
        """The batch of one step (counted from 0), or one rank's equal share of it.

        Returns:
            Inputs and targets, `[batch_size / world_size, context_length]`; the shares of all ranks, one
            below the other, are the batch of a single rank.

        Raises:
            ConfigError: a batch that cannot be shared equally.
        """
        if self.batch_size % world_size:
            what = f"expected a multiple of the {world_size} ranks, got {self.batch_size}"
            raise ConfigError(what, key=Key("training", "batch_size"))
        share = self.batch_size // world_size
        starts = self.starts(step)[rank * share : (rank + 1) * share]
        positions = starts[:, None] + np.arange(self.context_length + 1)
        return _to_device(self.tokens.take(positions, mode="wrap"), device)

    def starts(self, step: int) -> NDArray[np.int64]:
        """Where the windows of a step's global batch begin, `[batch_size]`."""
        if self.order == "random":
            num_starts = len(self.tokens) - self.context_length
            return (_random_words(self.seed, step, self.batch_size) % np.uint64(num_starts)).astype(np.int64)
        steps = max(1, min(_BLOCK_WINDOWS, self.num_windows) // self.batch_size)
        first = step // steps * steps
        if self._block is None or self._block[0] != first:
            self._block = first, self._starts_in_order(first * self.batch_size, steps * self.batch_size)
        at = (step - first) * self.batch_size
        return self._block[1][at : at + self.batch_size]

    def _starts_in_order(self, first: int, number: int) -> NDArray[np.int64]:
        """Of windows `first` to `first + number`, counted through all epochs."""
        epoch, index = np.divmod(np.arange(first, first + number), self.num_windows)
        return np.concatenate([self._epoch_starts(int(e), index[epoch == e]) for e in np.unique(epoch)])

    def _epoch_starts(self, epoch: int, index: NDArray[np.int64]) -> NDArray[np.int64]:
        offset, *keys = _random_words(self.seed, epoch, 1 + _NUM_ROUNDS)
        window = shuffled(index.astype(np.uint64), self.num_windows, np.array(keys)).astype(np.int64)
        return (int(offset % np.uint64(len(self.tokens))) + window * self.context_length) % len(self.tokens)


def validation_windows(
    tokens: Tokens, context_length: int, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """The whole text in order: each token but the first is a target exactly once.

    Yields:
        Inputs and targets, `[at most batch_size, context_length]`; last, where tokens are left over, one
        shorter window `[1, fewer]`.

    Raises:
        DataError: fewer than 2 tokens.
    """
    _require(tokens, 1)
    num_windows = (len(tokens) - 1) // context_length
    for first in range(0, num_windows, batch_size):
        starts = np.arange(first, min(first + batch_size, num_windows)) * context_length
        yield _to_device(tokens[starts[:, None] + np.arange(context_length + 1)], device)
    rest = tokens[num_windows * context_length :]
    if len(rest) > 1:
        yield _to_device(rest[None], device)


def shuffled(index: Words, size: int, keys: Words) -> Words:
    """Where each of `index` comes to lie when 0 .. size - 1 are shuffled; the keys choose the order.

    A bijection of 0 .. size - 1 that needs no table: a Feistel network on the next larger domain
    4**k >= size, applied again wherever it leads out of the range (fewer than 4 times on average).

    Source: Black & Rogaway, "Ciphers with Arbitrary Finite Domains", 2002, section 4 (cycle walking).
    """
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    result = _feistel(index, half_bits, keys)
    while (outside := result >= size).any():
        result[outside] = _feistel(result[outside], half_bits, keys)
    return result


def _feistel(value: Words, half_bits: np.uint64, keys: Words) -> Words:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = value >> half_bits, value & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half_bits) | right


def _mixed(value: Words) -> Words:
    """Every bit of the result depends on every bit of the value.

    Source: Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", 2014 (mix64variant13).
    """
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _random_words(seed: int, counter: int, size: int) -> Words:
    # Raw words of a counter-based generator: unlike numpy's distributions, their values are promised to
    # stay the same in every version. That `word % n` prefers some values by n / 2**64 does not show.
    return np.random.Philox(key=np.array([seed % 2**64, counter], np.uint64)).random_raw(size)


def _require(tokens: Tokens, context_length: int) -> None:
    if len(tokens) <= context_length:
        what = f"expected at least {context_length + 1} tokens (context_length + 1), got {len(tokens)}"
        raise DataError(f"{what}: take more text or a smaller [model].context_length")


def _to_device(windows: Tokens, device: torch.device | str) -> Batch:
    parts = windows[:, :-1], windows[:, 1:]
    inputs, targets = (torch.from_numpy(np.array(part, np.int64, order="C")) for part in parts)
    if torch.device(device).type == "cuda":
        # From pinned memory the copy runs while the GPU still computes the step before.
        inputs, targets = (part.pin_memory().to(device, non_blocking=True) for part in (inputs, targets))
    return inputs.to(device), targets.to(device)
