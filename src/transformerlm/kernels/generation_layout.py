"""Memory layout that generation.py and its callers share: constants and sizes only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformerlm.config import ModelConfig

NORM, Q, K, V, OUTPUT, SECOND_NORM, W1, W3, W2, Q_NORM, K_NORM, Q_BIAS, K_BIAS, V_BIAS = range(14)
"""Positions of the addresses of a layer's weights in its row; norms and biases that a model lacks are 0."""
WINDOW, HAS_ROPE, NUM_MATRICES = range(14, 17)
"""Positions of two numbers behind the addresses: the sliding window (0 for none), and 1 if queries and keys
are rotated; and the length of a row."""

GROUP = 32
"""Numbers of a matrix row that share a scale, where a number is stored in eight or four bits."""
BLOCK_ROWS = 16
"""Rows of such a matrix that are stored together: one for each lane of the largest registers."""
TILE_ROWS = 24
"""Rows of a matrix of floats that stay in a cache while they are multiplied with all tokens."""
ALIGNED = 16
"""Float32 numbers in a cache line: more than a token's scale needs, so that vectors do not cross lines."""

BIN_BITS = 10
"""Bits per round of radix selection: the order of floats from 0 to 1 is that of their bits, and three rounds
distinguish any two of them."""
NUM_BINS = 1 << BIN_BITS


BARRIER_SIZE = 3
"""Numbers in a barrier's state (waiting.py)."""


def tile_size(config: ModelConfig) -> int:
    """Return the size of TILE_ROWS rows of any matrix in float32, in numbers."""
    return TILE_ROWS * max(config.d_model, config.d_ff, config.num_heads * config.head_dim)


def rounded_size(config: ModelConfig, tokens: int) -> int:
    """Return the size of inputs in 16 bits and of their scales, in float32 numbers."""
    widest = max(config.d_model, config.d_ff, config.num_heads * config.head_dim)
    return tokens * (widest // 2 + ALIGNED)


def scratch_size(config: ModelConfig, tokens: int, capacity: int, threads: int) -> int:
    """Return the size of `scratch`, the intermediate results of a pass, in float32 numbers."""
    heads = config.num_heads + 2 * config.kv_heads
    shared = tokens * (2 * config.d_model + heads * config.head_dim + 2 * config.d_ff)
    return shared + threads * (capacity + tile_size(config) + rounded_size(config, tokens))


def inputs_size(config: ModelConfig, tokens: int, threads: int) -> int:
    """Return the size of `inputs`, the inputs of a pass's matrix products, in numbers."""
    return tokens * (config.num_heads * config.head_dim + config.d_ff + threads * config.d_model)
