"""The layout by itself: names, order of rows, keys of the config."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.small_models import SHAPE, VARIANTS, random_model
from transformerlm.config import ModelConfig
from transformerlm.conversion.hf_layout import (
    config_of,
    model_config,
    stored_specs,
    tensor_specs,
    to_halves,
    to_neighbours,
    to_ours,
    to_theirs,
)
from transformerlm.errors import CheckpointError

LLAMA = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
}
QWEN3 = LLAMA | {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 12}
MISTRAL = LLAMA | {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": None}


def test_pairs_that_are_rotated_together():
    assert to_halves(torch.arange(6), 6).tolist() == [0, 2, 4, 1, 3, 5]
    assert to_neighbours(torch.arange(6), 6).tolist() == [0, 3, 1, 4, 2, 5]
    assert to_halves(torch.arange(8), 4).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@given(st.integers(1, 4), st.integers(1, 8), st.booleans())
def test_the_orders_of_rows_are_each_others_inverse(heads, half, is_matrix):
    value = torch.randn(heads * 2 * half, *([3] if is_matrix else []))
    assert torch.equal(to_neighbours(to_halves(value, 2 * half), 2 * half), value)
    assert torch.equal(to_halves(to_neighbours(value, 2 * half), 2 * half), value)
    there = to_halves(value, 2 * half)
    for head, pair in itertools.product(range(heads), range(half)):
        first = head * 2 * half
        assert torch.equal(there[first + pair], value[first + 2 * pair])
        assert torch.equal(there[first + pair + half], value[first + 2 * pair + 1])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_table_names_every_tensor_with_its_shape(variant, transformers):
    model = random_model(**VARIANTS[variant])
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert {part.ours: part.shape for part in tensor_specs(model.config)} == ours
    values = config_of(model.config, None, None, "float32")
    kind = values["architectures"][0].removesuffix("ForCausalLM")
    config = getattr(transformers, f"{kind}Config")(**values)
    peer = getattr(transformers, f"{kind}ForCausalLM")(config).state_dict()
    state = model.state_dict()
    theirs = {
        part.theirs: to_theirs(part, state[part.ours], model.config) for part in stored_specs(model.config)
    }
    left_out = {"lm_head.weight"} if model.config.tie_embeddings else set()
    assert {n: t.shape for n, t in theirs.items()} == {
        n: t.shape for n, t in peer.items() if n not in left_out
    }
    back = {
        part.ours: to_ours(part, theirs[part.theirs], model.config)
        for part in tensor_specs(model.config)
        if part.theirs in theirs
    }
    for name, tensor in back.items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_config_comes_back_as_it_was(variant):
    config = ModelConfig(**{**SHAPE, "vocab_size": 300, "rope_theta": 12345.5, **VARIANTS[variant]})
    values = config_of(config, 7, 7, "bfloat16")
    assert model_config(values, "config.json") == config
    older = {key: value for key, value in values.items() if key not in ("rope_parameters", "dtype")}
    newer = {key: value for key, value in values.items() if key not in ("rope_theta", "torch_dtype")}
    assert model_config(older, "config.json") == model_config(newer, "config.json") == config


@pytest.mark.slow
@pytest.mark.parametrize("values", [LLAMA, QWEN3, MISTRAL], ids=lambda values: values["model_type"])
def test_what_a_file_leaves_out_is_what_transformers_takes_it_for(values, transformers):
    ours = model_config(values, "config.json")
    config_class = {
        "llama": transformers.LlamaConfig,
        "qwen3": transformers.Qwen3Config,
        "mistral": transformers.MistralConfig,
    }[values["model_type"]]
    theirs = config_class(**values)
    assert ours.kv_heads == theirs.num_key_value_heads
    assert ours.tie_embeddings == theirs.tie_word_embeddings
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.head_dim == getattr(theirs, "head_dim", None) or 12
    assert ours.qk_norm is (values["model_type"] == "qwen3")


ROPE = {"rope_type": "llama3", "factor": 8.0}
REFUSED = {
    "another kind of model": ({"model_type": "gpt2"}, "model_type: expected llama, mistral, qwen3, which"),
    "experts": ({"model_type": "mixtral"}, "model_type: expected llama, mistral, qwen3, which is what can"),
    "a list of kinds": ({"model_type": ["llama"]}, "model_type: expected"),
    "no kind of model": ({"model_type": None}, "model_type: expected .* got null"),
    "biases of qwen2": ({"model_type": "qwen2"}, 'model_type: .* got "qwen2"'),
    "scaled rotation": ({"rope_scaling": ROPE}, 'rope_scaling: rope_type: expected "default", got "llama3"'),
    "scaled rotation, older": (
        {"rope_scaling": {"type": "linear"}},
        'rope_type: expected "default", got "linear"',
    ),
    "scaled rotation, newer": (
        {"rope_parameters": ROPE | {"rope_theta": 5.0}},
        "rope_parameters: rope_type: exp",
    ),
    "rotation that is no object": ({"rope_scaling": 2.0}, "rope_scaling: expected an object, got 2.0"),
    "rotation of a part": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: expected 1, got 0.5"),
    "rotation of a part, newer": (
        {"rope_parameters": {"partial_rotary_factor": 0.5}},
        "factor: expected 1, got",
    ),
    "two thetas": (
        {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
        "rope_theta: expected 500000.0",
    ),
    "biases": ({"attention_bias": True}, "attention_bias: expected false, got true"),
    "other biases": ({"mlp_bias": True}, "mlp_bias: expected false, got true"),
    "another activation": ({"hidden_act": "gelu"}, 'hidden_act: expected "silu", got "gelu"'),
    "a window": ({**MISTRAL, "sliding_window": 63}, "sliding_window: expected null"),
    "the usual window": (
        dict(MISTRAL, max_position_embeddings=8192),
        "sliding_window: expected null.* got 4096",
    ),
    "a window in some layers": (
        {**QWEN3, "use_sliding_window": True},
        "use_sliding_window: expected false, got true",
    ),
    "layers of two kinds": (
        {"layer_types": ["full_attention", "sliding_attention"]},
        "layer_types: expected",
    ),
    "wide heads": ({"head_dim": 16}, r"head_dim: expected hidden_size / num_attention_heads = 12, got 16"),
    "the usual heads": ({**QWEN3, "head_dim": 128}, "head_dim: expected .* = 12, got 128"),
    
    "few bits": ({"quantization_config": {"bits": 4}}, "quantization_config: expected null, got"),
    "experts in it": ({"num_local_experts": 8}, "num_local_experts: expected 0, got 8"),
    "nothing of layers": ({"num_hidden_layers": None}, "num_hidden_layers: missing"),
    "heads that do not divide": ({"num_attention_heads": 5}, "num_attention_heads: expected a divisor"),
    "text for a number": ({"hidden_size": "48"}, "hidden_size: expected a whole number"),
    "no number": ({"rms_norm_eps": float("nan")}, "rms_norm_eps: expected"),
    "a huge number": ({"vocab_size": 10**400}, "vocab_size: expected"),
    "truth for a number": ({"num_hidden_layers": True}, "num_hidden_layers: expected"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_our_model_cannot_be_is_refused_by_its_key(name):
    changes, message = REFUSED[name]
    values = LLAMA | changes
    if name == "the usual window":
        del values["sliding_window"]
    with pytest.raises(CheckpointError, match=message) as caught:
        model_config(values, "their/config.json")
    for line in caught.value.lines:
        assert line.startswith("their/config.json: ")


def test_every_key_that_is_refused_has_its_line():
    values = LLAMA | {
        "mlp_bias": True,
        "attention_bias": True,
        "hidden_act": "relu",
        "num_hidden_layers": None,
    }
    with pytest.raises(CheckpointError) as caught:
        model_config(values, "config.json")
    assert len(caught.value.lines) == 4
