"""Training batches from several corpora, from counter-based random numbers as in `sampler.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from transformerlm.config import TrainingConfig
from transformerlm.data.build import TokenData
from transformerlm.data.interleave import Counts, Interleaving
from transformerlm.data.sampler import Batch, BatchSampler, Tokens, offsets, rank_rows, to_device
from transformerlm.data.token_file import TokenFile

BLOCK_SEQUENCES = 4096
"""Sequences whose corpora and positions are computed together, which takes as long as a few."""
SEED_STEP = 0x9E3779B97F4A7C15
"""Distance of the seeds of two corpora, which have random numbers of their own; the first has the run's."""


class MixtureSampler:
    """Training batches by step, whose sequences come from several corpora in fixed shares.

    Sequences are counted through all steps. `Interleaving` says which corpus each one is of; it is the next
    window of that corpus, in the order of a `BatchSampler` of its own. A batch is a function of (seed, step),
    the same on any number of ranks.

    Args:
        tokens: `[num_tokens]` of each corpus.
        shares: of the sequences, for each corpus.
        batch_size: windows in a step's global batch.
        context_length: tokens of a window.
        order: "random" or "epoch", see `BatchSampler`.
        seed: of the random numbers.

    Raises:
        DataError: a corpus with fewer than `context_length + 1` tokens.
    """

    def __init__(
        self,
        tokens: Sequence[Tokens],
        shares: Sequence[float],
        batch_size: int,
        context_length: int,
        order: Literal["epoch", "random"] = "epoch",
        seed: int = 0,
    ) -> None:
        seeds = [(seed + number * SEED_STEP) % 2**64 for number in range(len(tokens))]
        parts = zip(tokens, seeds, strict=True)
        self.corpora = [
            BatchSampler(own, batch_size, context_length, order, own_seed) for own, own_seed in parts
        ]
        self.interleaving = Interleaving(shares)
        self.batch_size, self.context_length = batch_size, context_length
        # Cache: first sequence, and corpus and position of those from it on, of the last computation.
        self._block: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None

    def batch(
        self, step: int, rank: int = 0, world_size: int = 1, device: torch.device | str = "cpu"
    ) -> Batch:
        """Return the batch of a step (counted from 0), or a rank's equal share of it; see `BatchSampler`."""
        rows = rank_rows(self.batch_size, rank, world_size)
        corpora, starts = (part[rows] for part in self.sequences(step))
        windows = np.empty((len(starts), self.context_length + 1), np.int64)
        for number in np.unique(corpora):
            own = corpora == number
            positions = starts[own, None] + offsets(self.context_length)
            windows[own] = self.corpora[number].tokens.take(positions, mode="wrap")
        return to_device(windows, device)

    def sequences(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return corpus and first position of each window of a step's global batch, both `[batch_size]`."""
        steps = max(1, BLOCK_SEQUENCES // self.batch_size)
        first = step // steps * steps * self.batch_size
        if self._block is None or self._block[0] != first:
            self._block = first, *self._compute(first, steps * self.batch_size)
        at = step * self.batch_size - first
        rows = slice(at, at + self.batch_size)
        return self._block[1][rows], self._block[2][rows]

    def drawn(self, steps: int) -> Counts:
        """Return the number of sequences of each corpus in the first `steps` batches, `[num_corpora]`."""
        return self.interleaving.counts(steps * self.batch_size)

    def _compute(self, first: int, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        corpora, before = self.interleaving.corpora(first, number)
        starts = np.empty(number, np.int64)
        for corpus, sampler in enumerate(self.corpora):
            own = corpora == corpus
            starts[own] = sampler.windows(int(before[corpus]), int(own.sum()))
        return corpora, starts


Sampler = BatchSampler | MixtureSampler
"""Training batches by step."""


def make_sampler(data: TokenData, training: TrainingConfig, context_length: int, seed: int = 0) -> Sampler:
    """Return the sampler of a run's training batches, from one corpus or several."""
    size, order = training.batch_size, training.batch_order
    if isinstance(data.train, TokenFile):
        return BatchSampler(data.train.tokens, size, context_length, order, seed)
    files = data.train.files
    shares = [data.shares[name] for name in files]
    return MixtureSampler([file.tokens for file in files.values()], shares, size, context_length, order, seed)
