"""Batches from token files: random windows, or every window once per epoch; validation text in order.

A training batch is a pure function of (seed, step): resuming needs only the number of the step, and the
batches are the same on any number of ranks. There is no iterator; `prefetch.py` prepares the next ones.
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
_BLOCK_WINDOWS = 4096  # windows whose starts are computed together, which takes as long as a few


def get_batch(
    tokens: Tokens, batch_size: int, context_length: int, device: torch.device | str = "cpu"
) -> Batch:
    """Return `batch_size` windows at random positions, drawn from torch's global generator.

    Args:
        tokens: `[num_tokens]`, any integers; a memory-mapped file is read only where a window lies.

    Returns:
        Inputs and targets, `[batch_size, context_length]`.

    Raises:
        DataError: fewer than `context_length + 1` tokens.
    """
    _require(tokens, context_length)
    num_starts = len(tokens) - context_length
    starts = torch.randint(num_starts, (batch_size,), dtype=torch.int64, device="cpu").numpy()
    return to_device(tokens[starts[:, None] + offsets(context_length)], device)


class BatchSampler:
    """Training batches by step, from counter-based random numbers.

    order "random": each window starts at a random position.
    order "epoch": the text, treated as a ring, is cut into windows of `context_length`, beginning at a random
    position for each epoch, and the windows are shuffled. In an epoch every window occurs once and every
    token is a target once, except for a remainder of fewer than `context_length` tokens, different in each
    epoch. A batch may span two epochs.

    Args:
        tokens: `[num_tokens]`, any integers; a memory-mapped file is read only where a window lies.
        batch_size: windows in a step's global batch.
        context_length: tokens of a window.
        order: "random" or "epoch", see above.
        seed: of the random numbers.

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
        # Still mapped, but not an np.memmap, whose slices cost microseconds each.
        self.tokens = np.asarray(tokens)
        self.batch_size, self.context_length = batch_size, context_length
        self.order, self.seed = order, seed
        self.num_windows = len(tokens) // context_length
        """Windows of an epoch."""
        # Cache: (first step, starts of the windows from that step on) of the last computation.
        self._block: tuple[int, NDArray[np.int64]] | None = None

    def batch(
        self, step: int, rank: int = 0, world_size: int = 1, device: torch.device | str = "cpu"
    ) -> Batch:
        """Return the batch of a step (counted from 0), or a rank's equal share of it.

        Returns:
            Inputs and targets, `[batch_size / world_size, context_length]`; the shares of all ranks,
            concatenated, are the batch of a single rank.

        Raises:
            ConfigError: `batch_size` is not a multiple of `world_size`.
        """
        starts = self.starts(step)[rank_rows(self.batch_size, rank, world_size)]
        positions = starts[:, None] + offsets(self.context_length)
        return to_device(self.tokens.take(positions, mode="wrap"), device)

    def starts(self, step: int) -> NDArray[np.int64]:
        """Return the first positions of the windows of a step's global batch, `[batch_size]`."""
        if self.order == "random":
            num_starts = len(self.tokens) - self.context_length
            return (_random_words(self.seed, step, self.batch_size) % np.uint64(num_starts)).astype(np.int64)
        steps = max(1, min(_BLOCK_WINDOWS, self.num_windows) // self.batch_size)
        first = step // steps * steps
        if self._block is None or self._block[0] != first:
            self._block = first, self._starts_in_order(first * self.batch_size, steps * self.batch_size)
        at = (step - first) * self.batch_size
        return self._block[1][at : at + self.batch_size]

    def windows(self, first: int, number: int) -> NDArray[np.int64]:
        """Return the starts of windows `first` to `first + number`, where they are counted and not the steps.

        In the order "random" they are others than those of `starts`, whose random numbers come by step.
        """
        if self.order == "epoch":
            return self._starts_in_order(first, number) if number else np.empty(0, np.int64)
        blocks = range(first // _BLOCK_WINDOWS, (first + number) // _BLOCK_WINDOWS + 1)
        words = np.concatenate([_random_words(self.seed, block, _BLOCK_WINDOWS) for block in blocks])
        at, num_starts = first - blocks[0] * _BLOCK_WINDOWS, len(self.tokens) - self.context_length
        return (words[at : at + number] % np.uint64(num_starts)).astype(np.int64)

    def _starts_in_order(self, first: int, number: int) -> NDArray[np.int64]:
        """Return the starts of windows `first` to `first + number`, counted through all epochs."""
        epoch, index = np.divmod(np.arange(first, first + number, dtype=np.int64), self.num_windows)
        return np.concatenate([self._epoch_starts(int(e), index[epoch == e]) for e in np.unique(epoch)])

    def _epoch_starts(self, epoch: int, index: NDArray[np.int64]) -> NDArray[np.int64]:
        offset, *keys = _random_words(self.seed, epoch, 1 + _NUM_ROUNDS)
        window = shuffled(index.astype(np.uint64), self.num_windows, np.array(keys, dtype=np.uint64)).astype(
            np.int64
        )
        return (int(offset % np.uint64(len(self.tokens))) + window * self.context_length) % len(self.tokens)


def rank_rows(batch_size: int, rank: int, world_size: int) -> slice:
    """Return the rows of a global batch that are a rank's.

    Raises:
        ConfigError: `batch_size` is not a multiple of `world_size`.
    """
    if batch_size % world_size:
        what = f"expected a multiple of the {world_size} ranks, got {batch_size}"
        raise ConfigError(what, key=Key("training", "batch_size"))
    share = batch_size // world_size
    return slice(rank * share, (rank + 1) * share)


def validation_windows(
    tokens: Tokens, context_length: int, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """Yield the whole text in order: each token but the first is a target exactly once.

    Args:
        tokens: `[num_tokens]`, any integers.

    Yields:
        Inputs and targets, `[at most batch_size, context_length]`; the remaining tokens come last, as one
        shorter window, `[1, number of them - 1]`.

    Raises:
        DataError: fewer than 2 tokens.
    """
    _require(tokens, 1)
    num_windows = (len(tokens) - 1) // context_length
    for first in range(0, num_windows, batch_size):
        starts = np.arange(first, min(first + batch_size, num_windows), dtype=np.int64) * context_length
        yield to_device(tokens[starts[:, None] + offsets(context_length)], device)
    rest = tokens[num_windows * context_length :]
    if len(rest) > 1:
        yield to_device(rest[None], device)


def shuffled(index: Words, size: int, keys: Words) -> Words:
    """Return the position of each of `index` in a random permutation of 0 .. size - 1, chosen by the keys.

    A bijection of 0 .. size - 1 without a table: a Feistel network on the smallest domain 4**k >= size,
    applied again wherever the result is out of range (fewer than 4 times on average).

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
    """Mix the bits: every bit of the result depends on every bit of the value.

    Source: Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", 2014 (mix64variant13).
    """
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _random_words(seed: int, counter: int, size: int) -> Words:
    """Return `size` random uint64 words, a pure function of (seed, counter)."""
    # Raw words of a counter-based generator: numpy promises that they stay the same in every version, unlike
    # its distributions. The bias of `word % n`, at most n / 2**64, is negligible.
    return np.random.Philox(key=np.array([seed % 2**64, counter], dtype=np.uint64)).random_raw(size)


def offsets(context_length: int) -> NDArray[np.int64]:
    """Return the positions of a window's inputs and targets relative to its start, `[context_length + 1]`."""
    return np.arange(context_length + 1, dtype=np.int64)


def _require(tokens: Tokens, context_length: int) -> None:
    if len(tokens) <= context_length:
        what = f"expected at least {context_length + 1} tokens (context_length + 1), got {len(tokens)}"
        raise DataError(f"{what}: take more text or a smaller [model].context_length")


def to_device(windows: Tokens, device: torch.device | str) -> Batch:
    """Return windows `[batch, time + 1]` as inputs and targets on a device."""
    parts = windows[:, :-1], windows[:, 1:]
    inputs, targets = (torch.from_numpy(np.array(part, dtype=np.int64, order="C")) for part in parts)
    if torch.device(device).type == "cuda":
        # From pinned memory the copy overlaps with the previous step on the GPU.
        inputs, targets = (part.pin_memory().to(device, non_blocking=True) for part in (inputs, targets))
    return inputs.to(device), targets.to(device)
