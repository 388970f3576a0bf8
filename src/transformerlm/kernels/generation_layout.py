"""Layout of the memory that generation.py and its callers share; numbers only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformerlm.config import ModelConfig

NORM, Q, K, V, OUTPUT, SECOND_NORM, W1, W3, W2, Q_NORM, K_NORM, NUM_MATRICES = range(12)
"""Positions of a layer's matrices in its row of addresses; Q_NORM and K_NORM are 0 where a model has none."""

BIN_BITS = 10
"""Numbers from 0 to 1, as bits, are in order; three times this many bits tell any two of them apart."""
NUM_BINS = 1 << BIN_BITS


def scratch_size(config: ModelConfig, texts: int, capacity: int, threads: int) -> int:
    """Return how many float32 numbers a decoding step keeps between its parts."""
    heads = config.num_heads + 2 * config.kv_heads
    return texts * (2 * config.d_model + heads * config.d_head + 2 * config.d_ff) + threads * capacity


def inputs_size(config: ModelConfig, texts: int, threads: int) -> int:
    """Return how many numbers it keeps for matrices to be multiplied with."""
    return texts * (config.num_heads * config.d_head + config.d_ff + threads * config.d_model)
