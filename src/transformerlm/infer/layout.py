"""How the memory that kernels.py and its caller share is laid out; numbers only."""

from __future__ import annotations

NORM, Q, K, V, OUTPUT, SECOND_NORM, W1, W3, W2, Q_NORM, K_NORM, NUM_MATRICES = range(12)
"""Where a layer's matrices stand in its row of addresses; Q_NORM and K_NORM are 0 where a model has none."""

BIN_BITS = 10
"""Numbers from 0 to 1, as bits, are in order; three times this many bits tell any two of them apart."""
NUM_BINS = 1 << BIN_BITS


def scratch_size(
    texts: int, d_model: int, heads: int, kv_heads: int, d_head: int, d_ff: int, capacity: int, threads: int
) -> int:
    """How many float32 numbers a step keeps between its parts."""
    shared = d_model + (2 * heads + 2 * kv_heads) * d_head + 2 * d_ff
    return texts * shared + threads * (texts * d_model + capacity)
