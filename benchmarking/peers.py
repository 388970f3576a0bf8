"""Models of other packages in the shape of ours, for benchmarks that run both. Nothing is downloaded."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformerlm.config import ModelConfig

if TYPE_CHECKING:
    from transformerlm.nn import TransformerLM
    from transformerlm.tokenizer import Tokenizer

END = "<|endoftext|>"


def hugging_face_llama(shape: ModelConfig) -> Any | None:
    """Return transformers' LlamaForCausalLM with random weights; None, with a message, if not installed."""
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


def gguf_of(
    model: TransformerLM, dtype: str, folder: Path, needed: Sequence[str] = ("gguf", "llama_cpp")
) -> Path | None:
    """Write the model as a GGUF file for llama.cpp; None, with a message, if a needed package is missing."""
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{missing[0]} is not installed: llama.cpp is left out", file=sys.stderr)
        return None
    from transformerlm.conversion.gguf import make, write

    path = folder / "model.gguf"
    tokenizer = some_tokenizer(model.config.vocabulary_rows)
    state = {name: weight.float() for name, weight in model.state_dict().items()}
    write(path, make(model.config, state, tokenizer, END, dtype))
    return path


def some_tokenizer(vocab_size: int) -> Tokenizer:
    """Return a tokenizer with `vocab_size` ids: bytes, pairs of bytes, and one that ends a text."""
    from transformerlm.tokenizer import Tokenizer

    pairs = [(bytes([left]), bytes([right])) for left in range(256) for right in range(256)]
    merges = pairs[: vocab_size - 257]
    tokens = [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]
    return Tokenizer(dict(enumerate(tokens)), merges, [END])
