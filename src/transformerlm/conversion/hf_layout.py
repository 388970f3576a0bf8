"""Hugging Face's layout of Llama-like models, to and from ours: names, order of rows, keys of the config.

Pure functions; `hf_folder` reads and writes files. Our rotary embedding rotates neighbours (x_2i, x_2i+1)
together, Hugging Face's x_i and x_(i + d_head / 2): in each head, the rows of queries and keys and the gains
of their norms are reordered. Nothing is computed, so a round trip gives the same bits.

Which family a model is written as follows from its options (`model_type_of`); the rotation is in hf_rope.py.
The families compute the same as our model with these settings: attention with a norm of each head of queries
and keys (Qwen 3), with biases (Qwen 2), without rotation in some layers (SmolLM 3), with a window in all
layers (Mistral) or in some (Ministral); else they are Llamas.

Architectures: transformers, models/llama, mistral, ministral, qwen2, qwen3, smollm3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from transformerlm.config import ModelConfig
from transformerlm.conversion.hf_rope import KEYS as ROPE_KEYS
from transformerlm.conversion.hf_rope import rope_problems, rope_settings, rope_values
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
    "ministral": "MinistralForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
"""model_type -> class in transformers. With the settings in `_SUPPORTED`, all are equivalent to our model."""
_POST_NORM = "it normalises what attention and feed-forward return, where this package normalises their input"
_REFUSED = {
    "olmo2": _POST_NORM,
    "olmo3": _POST_NORM,
    "ministral3": "its queries grow with the position (llama_4_scaling_beta)",
    "mixtral": "it has experts",
    "qwen3_moe": "it has experts",
}
"""Kinds of models that people ask for -> why this package cannot represent them."""
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "quantization_config": (None,),
    "partial_rotary_factor": (1,),
    "num_experts": (0,),
    "num_local_experts": (0,),
}
"""Keys that change the computation -> the values (besides null) that are equivalent to our model."""
_WITH_SWITCH = "qwen2", "qwen3", "smollm3"
"""Kinds whose window holds only with `use_sliding_window`."""
_FULL, _SLIDING = "full_attention", "sliding_attention"
MAX_LAYERS = 10_000
"""Most layers that are accepted from a file, which may be hostile: lists are made of them."""
_NO_ROPE_INTERVAL = 4
"""SmolLM 3's `no_rope_layer_interval` where it is not given."""


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
    d_queries, d_keys = config.num_heads * config.head_dim, config.kv_heads * config.head_dim
    blocks = [
        ("attention_norm.weight", "input_layernorm.weight", (d,), False),
        ("attention.q_proj.weight", "self_attn.q_proj.weight", (d_queries, d), True),
        ("attention.k_proj.weight", "self_attn.k_proj.weight", (d_keys, d), True),
        ("attention.v_proj.weight", "self_attn.v_proj.weight", (d_keys, d), False),
        ("attention.output_proj.weight", "self_attn.o_proj.weight", (d, d_queries), False),
        ("feedforward_norm.weight", "post_attention_layernorm.weight", (d,), False),
        ("feedforward.w1.weight", "mlp.gate_proj.weight", (d_ff, d), False),
        ("feedforward.w2.weight", "mlp.down_proj.weight", (d, d_ff), False),
        ("feedforward.w3.weight", "mlp.up_proj.weight", (d_ff, d), False),
    ]
    if config.qk_norm:
        names = (f"{kind}_norm.weight" for kind in "qk")
        blocks += [(f"attention.{name}", f"self_attn.{name}", (config.head_dim,), True) for name in names]
    if config.qkv_bias:
        widths = {"q_proj.bias": d_queries, "k_proj.bias": d_keys, "v_proj.bias": d_keys}
        blocks += [
            (f"attention.{name}", f"self_attn.{name}", (width,), name != "v_proj.bias")
            for name, width in widths.items()
        ]
    yield TensorSpec("embedding.weight", "model.embed_tokens.weight", (rows, d), False)
    for layer in range(config.num_layers):
        for ours, theirs, shape, is_rotated in blocks:
            yield TensorSpec(f"blocks.{layer}.{ours}", f"model.layers.{layer}.{theirs}", shape, is_rotated)
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
    """Return the key of `ARCHITECTURES` under which a model is written.

    Raises:
        CheckpointError: no family has all of the model's options.
    """
    own = {"qk_norm": "qwen3", "qkv_bias": "qwen2", "nope_layers": "smollm3"}
    found = [key for key in own if getattr(config, key)]
    if len(found) > 1:
        what = " with ".join(f"[model].{key}" for key in found)
        raise CheckpointError(f"no architecture of transformers that is written here has {what}")
    if found:
        return own[found[0]]
    if config.sliding_window is None:
        return "llama"
    return "ministral" if config.full_attention_layers else "mistral"


def config_of(
    config: ModelConfig, bos_token_id: int | None, eos_token_id: int | list[int] | None, dtype: str
) -> dict[str, Any]:
    """Return the `config.json` of a model; keys that transformers 5 renamed occur under both names.

    Raises:
        CheckpointError: see `model_type_of`.
    """
    model_type = model_type_of(config)
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
        **_layer_values(config, model_type),
        **rope_values(config),
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": None,
        "use_cache": True,
        "torch_dtype": dtype,
        "dtype": dtype,
    }


def _layer_values(config: ModelConfig, model_type: str) -> dict[str, Any]:
    """Return the keys that say which layers have a window, and which rotate."""
    layers, window = range(config.num_layers), config.sliding_window
    if model_type == "llama":
        return {"mlp_bias": False}
    if model_type == "mistral":
        return {"sliding_window": window}
    values: dict[str, Any] = {"sliding_window": window}
    if model_type in _WITH_SWITCH:
        values = {"use_sliding_window": window is not None, **values}
    if model_type == "smollm3":
        values |= {"mlp_bias": False, "no_rope_layers": [int(config.has_rope(layer)) for layer in layers]}
    if window is not None or model_type == "smollm3":
        values["layer_types"] = [_SLIDING if config.window_of(layer) else _FULL for layer in layers]
    if window is not None and model_type in ("qwen2", "qwen3"):
        # Before layer_types: a window in all layers from this one on.
        kinds = values["layer_types"]
        values["max_window_layers"] = kinds.index(_SLIDING) if _SLIDING in kinds else config.num_layers
    return values


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
        reason = f": {_REFUSED[model_type]}" if model_type in list(_REFUSED) else ""
        raise CheckpointError(f"{name}: model_type: {what}, got {_as_json(model_type)}{reason}")
    problems = list(_problems(values))
    found = {ours: values.get(theirs) for ours, theirs in KEYS.items()}
    if model_type == "llama" and found["num_kv_heads"] is None:
        found["num_kv_heads"] = found["num_heads"]
    if model_type == "smollm3" and found["tie_embeddings"] is None:
        found["tie_embeddings"] = True
    missing = [KEYS[key] for key, value in found.items() if value is None and key not in _OPTIONAL]
    problems += [f"{key}: missing" for key in missing]
    config = None
    if not missing and not problems:
        config, problems = _built({key: value for key, value in found.items() if value is not None}, values)
    if config is None or problems:
        raise CheckpointError([f"{name}: {problem}" for problem in problems])
    return config


def _problems(values: Mapping[str, Any]) -> Iterator[str]:
    for key, allowed in _SUPPORTED.items():
        if values.get(key) is not None and values[key] not in allowed:
            yield _refusal(key, " or ".join(map(_as_json, allowed)), values[key])
    yield from rope_problems(values)
    yield from _layer_problems(values)


def _layer_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for every list of layers that is none, or that says something else than another key."""
    number, kinds, rotated = (
        values.get(key) for key in ("num_hidden_layers", "layer_types", "no_rope_layers")
    )
    if kinds is not None and not _is_list_of(kinds, (_FULL, _SLIDING), number):
        yield _refusal("layer_types", f'"{_FULL}" or "{_SLIDING}" for each layer', kinds)
    elif kinds is not None and values["model_type"] in ("llama", "mistral"):
        own = _SLIDING if values["model_type"] == "mistral" and _window(values) is not None else _FULL
        if set(kinds) != {own}:
            yield _refusal("layer_types", f'"{own}" in all layers of a {values["model_type"]}', kinds)
    elif kinds is not None and _SLIDING in kinds and _window(values) is None:
        yield _refusal("layer_types", f'"{_FULL}" in all layers, as there is no window', kinds)
    if (window := _window(values)) is not None and not _is_whole(window, 1):
        yield _refusal("sliding_window", "a whole number of at least 1", window)
    for key, least in (("max_window_layers", 0), ("no_rope_layer_interval", 1)):
        if key in values and not _is_whole(values[key], least):
            yield _refusal(key, f"a whole number of at least {least}", values[key])
    if values["model_type"] == "smollm3" and rotated is not None and not _is_list_of(rotated, (0, 1), number):
        yield _refusal("no_rope_layers", "1 or 0 for each layer", rotated)


def _is_whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _is_list_of(found: Any, allowed: tuple[Any, ...], number: Any) -> bool:
    return isinstance(found, list) and len(found) == number and all(item in allowed for item in found)


def _window(values: Mapping[str, Any]) -> Any:
    """Return the window that some layers have, None for none; if it is left out, as transformers has it."""
    model_type = values["model_type"]
    if model_type == "llama" or (model_type in _WITH_SWITCH and not values.get("use_sliding_window")):
        return None
    return values.get("sliding_window", None if model_type == "smollm3" else 4096)


def _layer_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of [model] about single layers of a `config.json` without `_problems`."""
    layers, window = range(values["num_hidden_layers"]), _window(values)
    settings: dict[str, Any] = {}
    rotated = [True for _ in layers]
    if values["model_type"] == "smollm3":
        interval = values.get("no_rope_layer_interval", _NO_ROPE_INTERVAL)
        rotated = values.get("no_rope_layers") or [(layer + 1) % interval != 0 for layer in layers]
        settings["nope_layers"] = tuple(layer for layer in layers if not rotated[layer]) or None
    kinds = values.get("layer_types")
    if kinds is None:
        first = values.get("max_window_layers", 28) if values["model_type"] in ("qwen2", "qwen3") else 0
        has_window = [layer >= first for layer in layers]
        if values["model_type"] == "smollm3":
            has_window = [not is_rotated for is_rotated in rotated]
    else:
        has_window = [kind == _SLIDING for kind in kinds]
    # A window as long as the context hides nothing.
    is_short = window is not None and any(has_window) and window < values["max_position_embeddings"]
    if is_short:
        full = tuple(layer for layer in layers if not has_window[layer])
        settings |= {"sliding_window": window, "full_attention_layers": full or None}
    return settings


def _built(found: dict[str, Any], values: Mapping[str, Any]) -> tuple[ModelConfig | None, list[str]]:
    model_type = values["model_type"]
    try:
        # First the sizes by themselves: lists of layers are made of them.
        config = ModelConfig(**found, d_head=_head_dim(values), **rope_settings(values))
        if config.num_layers > MAX_LAYERS:
            return None, [f"num_hidden_layers: expected at most {MAX_LAYERS:,}, got {config.num_layers:,}"]
        options = {"qk_norm": model_type == "qwen3", "qkv_bias": model_type == "qwen2"}
        config = replace(config, **options, **_layer_settings(values))
    except SchemaError as error:
        names = KEYS | ROPE_KEYS | {"d_head": "head_dim"}
        return None, [f"{names.get(p.key[-1], p.key[-1])}: {p.what}" for p in error.problems]
    # What our config fills in itself, and Hugging Face's repeats, is left out.
    if config.d_head == config.d_model / config.num_heads:
        config = replace(config, d_head=None)
    return replace(config, num_kv_heads=None) if config.num_kv_heads == config.num_heads else config, []


def _head_dim(values: Mapping[str, Any]) -> Any:
    """Return the width of a head, or None: hidden_size / num_attention_heads."""
    return values.get("head_dim", 128 if values["model_type"] == "qwen3" else None)


def _refusal(key: str, expected: str, got: Any) -> str:
    return f"{key}: expected {expected}, got {_as_json(got)}"


def _as_json(value: Any) -> str:
    return printable(json.dumps(value), 60)
