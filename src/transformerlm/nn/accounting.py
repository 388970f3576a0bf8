"""What a model costs, from its config alone: parameters, floating-point operations, cache.

Formulas, checked in the tests against the built model; nothing is measured here.
"""

from __future__ import annotations

from transformerlm.config import ModelConfig


def num_parameters(config: ModelConfig) -> int:
    """Trainable numbers in all; a tied embedding counts once."""
    tables = 1 if config.tie_embeddings else 2
    return num_non_embedding_parameters(config) + tables * config.vocabulary_rows * config.d_model


def num_non_embedding_parameters(config: ModelConfig) -> int:
    """Those that do not grow with the vocabulary: without the embedding and the head."""
    norms = 2 * config.d_model + (2 * config.d_head if config.qk_norm else 0)
    return config.num_layers * (_block_matrix_parameters(config) + norms) + config.d_model


def flops_per_token(config: ModelConfig, num_keys: int) -> int:
    """Floating-point operations of one token's forward pass; a multiplication and an addition are two.

    2 * (matrix parameters of the blocks and the head) + 4 * num_layers * d_model * num_keys: every weight
    of a matrix once, then the scores (2 * d_model * num_keys) and the mixing of the values (as many).

    `num_keys` is how many keys attention works through per query. A full context counts whole, as the
    published figures count it, although causality leaves half of the pairs unused. Norms, rotations,
    activations and the softmax are left out: together about a hundredth.

    Source: Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, appendix B.
    """
    matrices = config.num_layers * _block_matrix_parameters(config) + config.vocabulary_rows * config.d_model
    return 2 * matrices + 4 * config.num_layers * config.d_model * num_keys


def training_flops_per_token(config: ModelConfig, num_keys: int) -> int:
    """Of the forward and the backward pass: three times the forward's.

    The backward pass multiplies twice where the forward multiplies once: for the input and for the weight.
    """
    return 3 * flops_per_token(config, num_keys)


def kv_cache_bytes_per_token(config: ModelConfig, bytes_per_number: int) -> int:
    """Bytes that one token of one row takes in a KVCache: a key and a value per layer and key head."""
    return 2 * config.num_layers * config.kv_heads * config.d_head * bytes_per_number


def _block_matrix_parameters(config: ModelConfig) -> int:
    queries_and_output = 2 * config.d_model * config.d_model
    keys_and_values = 2 * config.d_model * config.kv_heads * config.d_head
    feedforward = 3 * config.d_model * config.d_ff
    return queries_and_output + keys_and_values + feedforward
