"""The cost of a model, from its config alone: parameters, floating-point operations, bytes.

Formulas, checked in the tests against the built model; nothing is measured here.
"""

from __future__ import annotations

from transformerlm.config import ModelConfig


def num_parameters(config: ModelConfig) -> int:
    """Return the number of parameters; a tied embedding counts once."""
    tables = 1 if config.tie_embeddings else 2
    return num_non_embedding_parameters(config) + tables * config.vocabulary_rows * config.d_model


def num_non_embedding_parameters(config: ModelConfig) -> int:
    """Return the number of parameters without the embedding and the head, which grow with the vocabulary."""
    norms = 2 * config.d_model + (2 * config.head_dim if config.qk_norm else 0)
    biases = _d_queries(config) + 2 * _d_keys(config) if config.qkv_bias else 0
    return num_hidden_matrix_parameters(config) + config.num_layers * (norms + biases) + config.d_model


def num_hidden_matrix_parameters(config: ModelConfig) -> int:
    """Return the number of parameters in the blocks' matrices."""
    queries_and_output = 2 * config.d_model * _d_queries(config)
    keys_and_values = 2 * config.d_model * _d_keys(config)
    feedforward = 3 * config.d_model * config.d_ff
    return config.num_layers * (queries_and_output + keys_and_values + feedforward)


def flops_per_token(config: ModelConfig, num_keys: int) -> int:
    """Floating-point operations of one token's forward pass; a multiplication and an addition are two.

    2 * (matrix parameters of the blocks and the head) + 4 * num_layers * d_queries * num_keys, where
    d_queries is num_heads * d_head, usually d_model: every weight of a matrix once, then the scores (2 *
    d_queries * num_keys) and the mixing of the values (as many).

    `num_keys` is how many keys attention works through per query, in a layer with a sliding window at most
    the window's. A full context counts whole, as the published figures count it, although causality leaves
    half of the pairs unused. Norms, rotations, biases, activations and the softmax are left out: together
    about a hundredth.

    Source: Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, appendix B.
    """
    matrices = num_hidden_matrix_parameters(config) + config.vocabulary_rows * config.d_model
    windows = [config.window_of(layer) or num_keys for layer in range(config.num_layers)]
    return 2 * matrices + 4 * _d_queries(config) * sum(min(window, num_keys) for window in windows)


def training_flops_per_token(config: ModelConfig, num_keys: int) -> int:
    """Floating-point operations of one token's forward and backward pass: three times the forward's.

    The backward pass multiplies twice where the forward multiplies once: for the input and for the weight.
    """
    return 3 * flops_per_token(config, num_keys)


def kv_cache_bytes_per_token(config: ModelConfig, bytes_per_number: int) -> int:
    """Bytes of one token of one row in a KVCache: a key and a value per layer and key head."""
    return 2 * config.num_layers * _d_keys(config) * bytes_per_number


def optimizer_bytes(config: ModelConfig, optimizer: str) -> int:
    """Bytes of the optimizer's running means, in float32.

    "adamw" has two for every parameter, "muon" one for those in the blocks' matrices and two for the others.
    """
    with_one = num_hidden_matrix_parameters(config) if optimizer == "muon" else 0
    return 4 * (2 * num_parameters(config) - with_one)


def checkpoint_bytes(config: ModelConfig, optimizer: str) -> int:
    """Bytes of a checkpoint: weights and the optimizer's state. Its JSON is left out, some 100 kB at most."""
    return 4 * num_parameters(config) + optimizer_bytes(config, optimizer)


def block_activation_bytes_per_token(
    config: ModelConfig, bytes_per_number: int, *, fused: bool = False, num_scores: int = 0
) -> int:
    """Bytes per token that one block's forward pass keeps for its backward pass.

    In float32, a norm keeps its input and, unless `fused`, the normalised input. In the dtype of the
    products, a matrix keeps its input; attention its queries, keys and values, and its output if it is
    neither `fused` nor keeps scores. These have width d_model, or num_heads * d_head (shared keys and values
    less, unless scores are kept). Attention with a window is never `fused`; if a layer has one that is
    shorter than the context, all are counted so. SwiGLU keeps both projections and their product, of width
    d_ff, and, unless `fused`, the sigmoid and silu in between.

    Args:
        bytes_per_number: 4, or 2 where products are taken in half precision.
        fused: True for the CPU kernels (fused.py), False for PyTorch's operations.
        num_scores: scores per query and head that attention keeps; 0 if it keeps none.

    Source: the way of counting is that of Korthikanti et al., "Reducing Activation Recomputation in Large
    Transformer Models", 2022, section 4.
    """
    heads, d_model, d_queries = config.num_heads, config.d_model, _d_queries(config)
    queries_and_keys, has_window = d_queries + _d_keys(config), num_windowed_layers(config) > 0
    # In half precision each product has its own copy of the input; in float32 they share it.
    copies = 3 if fused or bytes_per_number == 4 else 6
    outputs = 0 if (fused and not has_window) or num_scores else 1
    keys_and_values = 2 * (d_queries if num_scores else _d_keys(config))
    half = (2 + outputs) * d_queries + (copies - 1) * d_model + keys_and_values
    wide = 2 * (1 if fused else 2) * d_model + 2 + heads
    if config.qk_norm:
        wide += heads + config.kv_heads + (0 if fused else 2 * queries_and_keys)
    if fused:  # copies for the norm; and values that keep the projections that they are part of
        half += queries_and_keys * (config.qk_norm + has_window)
    half += (3 if fused else 5) * config.d_ff
    scores = num_scores * heads * (bytes_per_number + 4)
    return 4 * wide + bytes_per_number * half + scores


def num_windowed_layers(config: ModelConfig) -> int:
    """Return the number of layers whose sliding window is shorter than the context."""
    windows = (config.window_of(layer) for layer in range(config.num_layers))
    return sum(window is not None and window < config.context_length for window in windows)


def window_mask_bytes(config: ModelConfig, bytes_per_number: int) -> int:
    """Bytes of the masks of sliding windows that a forward pass keeps, for a batch of any size."""
    return num_windowed_layers(config) * config.context_length**2 * bytes_per_number


def activation_bytes_per_token(
    config: ModelConfig,
    bytes_per_number: int,
    *,
    fused: bool = False,
    num_scores: int = 0,
    checkpointing: bool = False,
) -> int:
    """Bytes per token that the model's forward pass keeps, its last norm and the loss' gradient included.

    With activation checkpointing it keeps the input of every block and nothing inside. Other arguments as for
    `block_activation_bytes_per_token`.
    """
    ends = 8 + 4 * ((1 if fused else 2) * config.d_model + 1) + bytes_per_number * config.d_model
    if checkpointing:
        return ends + config.num_layers * 4 * config.d_model
    block = block_activation_bytes_per_token(config, bytes_per_number, fused=fused, num_scores=num_scores)
    return ends + config.num_layers * block


def _d_queries(config: ModelConfig) -> int:
    """Width of all heads' queries."""
    return config.num_heads * config.head_dim


def _d_keys(config: ModelConfig) -> int:
    """Width of all heads' keys, and of all their values."""
    return config.kv_heads * config.head_dim
