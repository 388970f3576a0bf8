"""A model in GGUF's terms: which of llama.cpp's architectures it is, its fields, and names of its tensors.

A model is a "llama", whose rotary embedding rotates neighbouring dimensions together like ours: the rows of
its matrices keep their order. With [model].nope_layers it is a "smollm3", which does the same; with qk_norm a
"qwen3" and with qkv_bias a "qwen2", which rotate x_i with x_(i + d_head / 2) like Hugging Face.

llama.cpp has no sliding window in these: a file is for texts as long as the window, on which it does nothing.

Sources: llama.cpp, src/models/llama.cpp, qwen2.cpp, qwen3.cpp, smollm3.cpp, src/llama-context.cpp; its
convert_hf_to_gguf.py.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from transformerlm.config import ModelConfig
from transformerlm.errors import CheckpointError
from transformerlm.nn.rope_scaling import Llama3Scaling, YarnScaling, base_frequencies, scaling_of

NAMES = {
    "embedding": "token_embd",
    "final_norm": "output_norm",
    "head": "output",
    "attention_norm": "attn_norm",
    "attention.q_proj": "attn_q",
    "attention.k_proj": "attn_k",
    "attention.v_proj": "attn_v",
    "attention.output_proj": "attn_output",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "feedforward_norm": "ffn_norm",
    "feedforward.w1": "ffn_gate",
    "feedforward.w2": "ffn_down",
    "feedforward.w3": "ffn_up",
}
"""Our name of a tensor, without block and ".weight" or ".bias" -> its name in GGUF."""
ROTATES_HALVES = "qwen2", "qwen3"
"""Architectures whose rows of queries and keys are in Hugging Face's order."""
_NOPE_STEP = 4
"""Every so many layers llama.cpp's "smollm3" does without rotation."""


def architecture_of(config: ModelConfig) -> str:
    """Return llama.cpp's name of the architecture.

    Raises:
        CheckpointError: it has none with all of the model's options.
    """
    if config.nope_layers:
        return _smollm3(config)
    has_usual_width = config.num_heads * config.head_dim == config.d_model
    if config.qk_norm:
        name = "qwen3"
    elif config.qkv_bias and has_usual_width and config.rope_scaling != "llama3":
        name = "qwen2"  # the usual form; its heads have no width of their own
    else:
        name = "llama"
    if config.rope_scaling == "llama3" and name != "llama":
        raise _refusal(f'[model].rope_scaling: "llama3" with qk_norm, in its {name}')
    return name


def _smollm3(config: ModelConfig) -> str:
    every = tuple(range(_NOPE_STEP - 1, config.num_layers, _NOPE_STEP))
    if tuple(sorted(config.nope_layers or ())) != every:
        what = f"[model].nope_layers: {list(config.nope_layers or ())}; its smollm3 has {list(every)}"
        raise _refusal(f"{what} of {config.num_layers} layers")
    if config.rope_scaling == "llama3" or config.qk_norm or config.qkv_bias:
        others = "rope_scaling llama3, qk_norm or qkv_bias"
        raise _refusal(f"[model].nope_layers together with {others}, in its smollm3")
    return "smollm3"


def longest_text(config: ModelConfig) -> int:
    """Return the context length of the file: the model's, or a sliding window that is shorter."""
    windows = (config.window_of(layer) for layer in range(config.num_layers))
    return min(config.context_length, *(window or config.context_length for window in windows))


def model_fields(config: ModelConfig, architecture: str, vocab_size: int) -> dict[str, Any]:
    """Return the fields about sizes and rotation."""
    fields = {
        "vocab_size": vocab_size,
        "context_length": longest_text(config),
        "embedding_length": config.d_model,
        "block_count": config.num_layers,
        "feed_forward_length": config.d_ff,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_theta,
        **_scaling_fields(config),
    }
    return {f"{architecture}.{key}": value for key, value in fields.items()}


def _scaling_fields(config: ModelConfig) -> dict[str, Any]:
    scaling = scaling_of(config)
    if config.rope_scaling not in ("linear", "yarn") or scaling is None:
        return {}  # Llama 3's is a tensor
    fields = {"type": config.rope_scaling, "factor": config.rope_factor}
    if isinstance(scaling, YarnScaling):
        usual = 0.1 * math.log(scaling.factor) + 1  # llama.cpp's own, by which ours is divided
        fields |= {
            "original_context_length": scaling.original_length,
            "attn_factor": scaling.attention_factor / usual,
            "yarn_beta_fast": scaling.beta_fast,
            "yarn_beta_slow": scaling.beta_slow,
        }
    return {f"rope.scaling.{key}": value for key, value in fields.items()}


def rope_tensors(config: ModelConfig) -> dict[str, Tensor]:
    """Return the divisors of the frequencies in Llama 3's scaling, [d_head / 2], by GGUF's name."""
    scaling = scaling_of(config)
    if not isinstance(scaling, Llama3Scaling):
        return {}
    sizes = config.rope_theta, config.head_dim
    return {"rope_freqs.weight": (base_frequencies(*sizes) / scaling.frequencies(*sizes)).float()}


def tensor_name(ours: str) -> str:
    """`blocks.0.attention.q_proj.weight` -> `blk.0.attn_q.weight`."""
    stem, _, kind = ours.rpartition(".")
    if stem in NAMES:
        return f"{NAMES[stem]}.{kind}"
    _, layer, inner = stem.split(".", 2)
    return f"blk.{layer}.{NAMES[inner]}.{kind}"


def _refusal(what: str) -> CheckpointError:
    return CheckpointError(f"llama.cpp cannot hold this model: {what}")
