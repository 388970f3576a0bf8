"""The model, every part from scratch. Read transformer.py first, then the file each name points to."""

from transformerlm.nn.accounting import (
    flops_per_token,
    kv_cache_bytes_per_token,
    num_non_embedding_parameters,
    num_parameters,
    training_flops_per_token,
)
from transformerlm.nn.attention import MultiHeadSelfAttention
from transformerlm.nn.cache import KVCache
from transformerlm.nn.embedding import Embedding
from transformerlm.nn.feedforward import SwiGLU
from transformerlm.nn.functional import cross_entropy, silu, softmax
from transformerlm.nn.linear import Linear
from transformerlm.nn.loss import NextTokenLoss, linear_cross_entropy
from transformerlm.nn.norm import RMSNorm
from transformerlm.nn.rope import RotaryPositionEmbedding
from transformerlm.nn.sdpa import resolve_backend, scaled_dot_product_attention
from transformerlm.nn.transformer import TransformerBlock, TransformerLM

__all__ = [
    "Embedding",
    "KVCache",
    "Linear",
    "MultiHeadSelfAttention",
    "NextTokenLoss",
    "RMSNorm",
    "RotaryPositionEmbedding",
    "SwiGLU",
    "TransformerBlock",
    "TransformerLM",
    "cross_entropy",
    "flops_per_token",
    "kv_cache_bytes_per_token",
    "linear_cross_entropy",
    "num_non_embedding_parameters",
    "num_parameters",
    "resolve_backend",
    "scaled_dot_product_attention",
    "silu",
    "softmax",
    "training_flops_per_token",
]
