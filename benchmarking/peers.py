"""Models of other packages in the shape of ours, for benchmarks that run both. Nothing is downloaded."""

from __future__ import annotations

import sys
from typing import Any

from transformerlm.config import ModelConfig


def hugging_face_llama(shape: ModelConfig) -> Any | None:
    """transformers' LlamaForCausalLM with random weights; None, and a word, where it is not installed."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        print("transformers is not installed: left out", file=sys.stderr)
        return None
    llama = LlamaConfig(
        vocab_size=shape.vocabulary_rows,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_ff,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context_length,
        tie_word_embeddings=shape.tie_embeddings,
        bos_token_id=None,
        eos_token_id=None,  # nothing ends a text early
        pad_token_id=0,
    )
    return LlamaForCausalLM(llama)
