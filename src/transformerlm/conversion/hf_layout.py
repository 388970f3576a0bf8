"""Hugging Face's layout of Llama-like models, to and from ours: names, order of rows, keys of the config.

Pure functions; `hf_folder` reads and writes files. Our rotary embedding rotates neighbours (x_2i, x_2i+1)
together, Hugging Face's x_i and x_(i + d_head / 2): in each head, the rows of queries and keys and the gains
of their norms are reordered. Nothing is computed, so a round trip gives the same bits.

A model with [model].qk_norm is a Qwen3, which normalises each head of queries and keys before the rotation
like ours; a model without is a Llama.

Architectures: transformers, models/llama and models/qwen3.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from transformerlm.config import ModelConfig
from transformerlm.errors import CheckpointError
from transformerlm.schema import SchemaError
from transformerlm.storage.untrusted import printable

KEYS = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "d_model": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "d_ff": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
}
"""Key of [model] -> key of config.json with the same meaning."""
_OPTIONAL = {"tie_embeddings"}
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""model_type -> class in transformers. With the settings in `_SUPPORTED`, all are equivalent to our model."""

_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "pretraining_tp": (1,),
    "quantization_config": (None,),
    "partial_rotary_factor": (1,),
    "use_sliding_window": (False,),
    "num_experts": (0,),
    "num_local_experts": (0,),
}
"""Keys that change the computation -> the values (besides null) that are equivalent to our model."""


class TensorSpec(NamedTuple):
    """Names and shape of one of a model's tensors."""

    ours: str
    theirs: str
    shape: tuple[int, ...]
    is_rotated: bool
    """Its rows belong to rotated pairs and are in another order in Hugging Face's files."""


def tensor_specs(config: ModelConfig) -> Iterator[TensorSpec]:
    """Yield the specs of a model's tensors in the order of their use, a tied head included."""
    rows, d, d_ff = config.vocabulary_rows, config.d_model, config.d_ff
    d_keys = config.kv_heads * config.head_dim
    blocks = [
        ("attention_norm", "input_layernorm", (d,), False),
        ("attention.q_proj", "self_attn.q_proj", (d, d), True),
        ("attention.k_proj", "self_attn.k_proj", (d_keys, d), True),
        ("attention.v_proj", "self_attn.v_proj", (d_keys, d), False),
        ("attention.output_proj", "self_attn.o_proj", (d, d), False),
        ("feedforward_norm", "post_attention_layernorm", (d,), False),
        ("feedforward.w1", "mlp.gate_proj", (d_ff, d), False),
        ("feedforward.w2", "mlp.down_proj", (d, d_ff), False),
        ("feedforward.w3", "mlp.up_proj", (d_ff, d), False),
    ]
    if config.qk_norm:
        blocks += [
            (f"attention.{kind}_norm", f"self_attn.{kind}_norm", (config.head_dim,), True) for kind in "qk"
        ]
    yield TensorSpec("embedding.weight", "model.embed_tokens.weight", (rows, d), False)
    for layer in range(config.num_layers):
        for ours, theirs, shape, is_rotated in blocks:
            names = f"blocks.{layer}.{ours}.weight", f"model.layers.{layer}.{theirs}.weight"
            yield TensorSpec(*names, shape, is_rotated)
    yield TensorSpec("final_norm.weight", "model.norm.weight", (d,), False)
    yield TensorSpec("head.weight", "lm_head.weight", (rows, d), False)


def to_halves(value: Tensor, d_head: int) -> Tensor:
    """Reorder rows of heads from pairs (2i, 2i + 1) to (i, i + d_head / 2): 0 1 2 3 4 5 -> 0 2 4 1 3 5.

    Args:
        value: [heads * d_head, ...].
        d_head: size of a head.
    """
    pairs = value.reshape(-1, d_head // 2, 2, *value.shape[1:])
    return pairs.transpose(1, 2).reshape(value.shape)


def to_neighbours(value: Tensor, d_head: int) -> Tensor:
    """Undo `to_halves`: 0 1 2 3 4 5 -> 0 3 1 4 2 5."""
    halves = value.reshape(-1, 2, d_head // 2, *value.shape[1:])
    return halves.transpose(1, 2).reshape(value.shape)


def to_theirs(spec: TensorSpec, value: Tensor, config: ModelConfig) -> Tensor:
    """Return one of our tensors in the row order of Hugging Face's files."""
    return to_halves(value, config.head_dim) if spec.is_rotated else value


def to_ours(spec: TensorSpec, value: Tensor, config: ModelConfig) -> Tensor:
    """Return a tensor of Hugging Face's in our row order and in float32, which holds all their dtypes."""
    return (to_neighbours(value, config.head_dim) if spec.is_rotated else value).float()


def stored_specs(config: ModelConfig) -> list[TensorSpec]:
    """Return the specs of the tensors that a file of the model holds: all but a tied head."""
    return [
        spec for spec in tensor_specs(config) if not (config.tie_embeddings and spec.ours == "head.weight")
    ]


def model_type_of(config: ModelConfig) -> str:
    """Return the key of `ARCHITECTURES` under which a model is written."""
    return "qwen3" if config.qk_norm else "llama"


def config_of(
    config: ModelConfig, bos_token_id: int | None, eos_token_id: int | list[int] | None, dtype: str
) -> dict[str, Any]:
    """Return the `config.json` of a model; keys that transformers 5 renamed occur under both names."""
    model_type = model_type_of(config)
    own = {"use_sliding_window": False, "sliding_window": None} if config.qk_norm else {"mlp_bias": False}
    shape = {theirs: getattr(config, ours) for ours, theirs in KEYS.items()}
    return {
        "architectures": [ARCHITECTURES[model_type]],
        "model_type": model_type,
        **shape,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        **own,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": None,
        "use_cache": True,
        "torch_dtype": dtype,
        "dtype": dtype,
    }


def model_config(values: Mapping[str, Any], name: str) -> ModelConfig:
    """Return the [model] that a `config.json` describes.

    Args:
        values: the object in `config.json`.
        name: name of the file in error messages.

    Raises:
        CheckpointError: one line for every key with a value that our model does not support.
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        what = f"expected {', '.join(ARCHITECTURES)}, which is what can be represented here"
        raise CheckpointError(f"{name}: model_type: {what}, got {_as_json(model_type)}")
    problems = list(_problems(values))
    found = {ours: values.get(theirs) for ours, theirs in KEYS.items()}
    if model_type == "llama" and found["num_kv_heads"] is None:
        found["num_kv_heads"] = found["num_heads"]
    missing = [KEYS[key] for key, value in found.items() if value is None and key not in _OPTIONAL]
    problems += [f"{key}: missing" for key in missing]
    config = None
    if not missing:
        config, more = _built({key: value for key, value in found.items() if value is not None}, values)
        problems += more
    if config is None or problems:
        raise CheckpointError([f"{name}: {problem}" for problem in problems])
    # Without grouped heads our config leaves the key out, and Hugging Face's repeats the number.
    return replace(config, num_kv_heads=None) if config.num_kv_heads == config.num_heads else config


def _problems(values: Mapping[str, Any]) -> Iterator[str]:
    for key, allowed in _SUPPORTED.items():
        if values.get(key) is not None and values[key] not in allowed:
            yield _refusal(key, " or ".join(map(_as_json, allowed)), values[key])
    layers = values.get("layer_types")
    if layers is not None and not (isinstance(layers, list) and set(map(str, layers)) == {"full_attention"}):
        yield _refusal("layer_types", '"full_attention" in all layers', layers)
    for key in ("rope_parameters", "rope_scaling"):
        yield from _rope_problems(key, values.get(key))


def _rope_problems(key: str, found: Any) -> Iterator[str]:
    if not isinstance(found, dict):
        if found is not None:
            yield _refusal(key, "an object", found)
        return
    kind = found.get("rope_type", found.get("type", "default"))
    if kind != "default":
        yield _refusal(f"{key}: rope_type", '"default"', kind)
    if found.get("partial_rotary_factor") not in (None, 1):
        yield _refusal(f"{key}: partial_rotary_factor", "1", found["partial_rotary_factor"])


def _built(found: dict[str, Any], values: Mapping[str, Any]) -> tuple[ModelConfig | None, list[str]]:
    model_type = values["model_type"]
    try:
        config = ModelConfig(**found, rope_theta=_rope_theta(values), qk_norm=model_type == "qwen3")
    except SchemaError as error:
        return None, [f"{KEYS.get(p.key[-1], p.key[-1])}: {p.what}" for p in error.problems]
    problems = [problem for check in _CHECKS for problem in check(config, values)]
    return config, problems


def _rope_theta(values: Mapping[str, Any]) -> Any:
    """Return rope_theta: in rope_parameters since transformers 5, a key of its own before; default 10,000."""
    for key in ("rope_parameters", "rope_scaling"):
        inner = values.get(key)
        if isinstance(inner, dict) and inner.get("rope_theta") is not None:
            return inner["rope_theta"]
    return 10000.0 if values.get("rope_theta") is None else values["rope_theta"]


def _head_problems(config: ModelConfig, values: Mapping[str, Any]) -> Iterator[str]:
    head_dim = values.get("head_dim", 128 if values["model_type"] == "qwen3" else None)
    if head_dim is not None and head_dim != config.head_dim:
        what = f"hidden_size / num_attention_heads = {config.head_dim}"
        yield _refusal("head_dim", what, head_dim)


def _window_problems(config: ModelConfig, values: Mapping[str, Any]) -> Iterator[str]:
    """Refuse Mistral's sliding window, which is 4,096 if not given, unless no text can be longer."""
    window = values.get("sliding_window", 4096) if values["model_type"] == "mistral" else None
    if window is not None and not (type(window) is int and window >= config.context_length):
        yield _refusal("sliding_window", "null: every position sees all before it here", window)


def _theta_problems(config: ModelConfig, values: Mapping[str, Any]) -> Iterator[str]:
    outer = values.get("rope_theta")
    if outer is not None and outer != config.rope_theta:
        yield _refusal("rope_theta", f"{config.rope_theta}, as rope_parameters has it", outer)


_CHECKS: tuple[Callable[[ModelConfig, Mapping[str, Any]], Iterator[str]], ...] = (
    _head_problems,
    _window_problems,
    _theta_problems,
)


def _refusal(key: str, expected: str, got: Any) -> str:
    return f"{key}: expected {expected}, got {_as_json(got)}"


def _as_json(value: Any) -> str:
    return printable(json.dumps(value), 60)
