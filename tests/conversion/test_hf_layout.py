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
QWEN2 = LLAMA | {"model_type": "qwen2", "num_key_value_heads": 2}
SMOLLM3 = LLAMA | {"model_type": "smollm3", "num_key_value_heads": 2}
MINISTRAL = LLAMA | {"model_type": "ministral", "num_key_value_heads": 2, "sliding_window": 20}
YARN = {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_length": 16}
OPTIONS = {
    "wide heads": {"d_head": 20},
    "biases": {"qkv_bias": True},
    "biases and windows in some layers": {
        **{"qkv_bias": True, "sliding_window": 9, "full_attention_layers": (0,)},
    },
    "no rotation": {"nope_layers": (1,), "tie_embeddings": True},
    "no rotation, a window": {"nope_layers": (0, 1), "sliding_window": 9, "full_attention_layers": (1,)},
    "a window": {"sliding_window": 9},
    "a window in some layers": {"sliding_window": 9, "full_attention_layers": (1,)},
    "a window, qk-norm": {"sliding_window": 9, "qk_norm": True},
    "linear": {"rope_scaling": "linear", "rope_factor": 3.0},
    "llama3": {
        **{"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_length": 16},
        **{"rope_low_freq_factor": 1.0, "rope_high_freq_factor": 4.0},
    },
    "yarn": YARN,
    "yarn with all": {
        **YARN | {"rope_attention_factor": 1.25, "rope_beta_fast": 16.0, "rope_beta_slow": 2.0},
    },
}


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
@pytest.mark.parametrize("variant", VARIANTS | OPTIONS)
def test_the_table_names_every_tensor_with_its_shape(variant, transformers):
    model = random_model(**(VARIANTS | OPTIONS)[variant])
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


@pytest.mark.parametrize("variant", VARIANTS | OPTIONS)
def test_a_config_comes_back_as_it_was(variant):
    options = (VARIANTS | OPTIONS)[variant]
    config = ModelConfig(**{**SHAPE, "vocab_size": 300, "rope_theta": 12345.5, **options})
    values = config_of(config, 7, 7, "bfloat16")
    assert model_config(values, "config.json") == config
    older = {key: value for key, value in values.items() if key not in ("rope_parameters", "dtype")}
    dropped = "rope_theta", "rope_scaling", "torch_dtype"
    newer = {key: value for key, value in values.items() if key not in dropped}
    assert model_config(older, "config.json") == model_config(newer, "config.json") == config


@pytest.mark.slow
@pytest.mark.parametrize(
    "values", [LLAMA, QWEN2, QWEN3, MISTRAL, MINISTRAL, SMOLLM3], ids=lambda values: values["model_type"]
)
def test_what_a_file_leaves_out_is_what_transformers_takes_it_for(values, transformers):
    ours = model_config(values, "config.json")
    names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "smollm3": "SmolLM3"}
    kind = names.get(values["model_type"], values["model_type"].capitalize())
    theirs = getattr(transformers, f"{kind}Config")(**values)
    assert ours.kv_heads == theirs.num_key_value_heads
    assert ours.tie_embeddings == theirs.tie_word_embeddings
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or 12)
    assert ours.sliding_window == (values.get("sliding_window") if values is MINISTRAL else None)
    rotated = getattr(theirs, "no_rope_layers", [1, 1])
    assert [ours.has_rope(layer) for layer in (0, 1)] == [bool(one) for one in rotated]
    assert ours.qkv_bias is (values["model_type"] == "qwen2")
    assert ours.qk_norm is (values["model_type"] == "qwen3")


@pytest.mark.parametrize(
    ("values", "window", "full_layers"),
    [
        ({**MISTRAL, "sliding_window": 20}, 20, None),
        ({**MISTRAL, "sliding_window": 64}, None, None),
        ({**QWEN2, "sliding_window": 20}, None, None),
        ({**QWEN2, "sliding_window": 20, "use_sliding_window": True}, None, None),  # from layer 28 on
        ({**QWEN2, "sliding_window": 20, "use_sliding_window": True, "max_window_layers": 1}, 20, (0,)),
        ({**QWEN3, "sliding_window": 20, "use_sliding_window": True, "max_window_layers": 0}, 20, None),
        ({**MINISTRAL, "layer_types": ["sliding_attention", "full_attention"]}, 20, (1,)),
        ({**SMOLLM3, "sliding_window": 20, "use_sliding_window": True}, None, None),
        ({**SMOLLM3, "sliding_window": 9, "use_sliding_window": True, "no_rope_layers": [1, 0]}, 9, (0,)),
    ],
)
def test_which_layers_have_a_window(values, window, full_layers, transformers):
    found = model_config(values, "config.json")
    assert (found.sliding_window, found.full_attention_layers) == (window, full_layers)


@pytest.mark.parametrize(
    ("given", "factor"),
    [
        ({"attention_factor": 1.5}, 1.5),
        ({}, None),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0),
        ({"mscale": 0.707, "mscale_all_dim": 0.0}, None),
    ],
)
def test_the_attention_factor_of_yarn(given, factor):
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, **given}
    found = model_config(LLAMA | {"rope_scaling": scaling}, "config.json")
    assert found.rope_attention_factor == factor


@pytest.mark.parametrize(
    "options", [{"qk_norm": True, "qkv_bias": True}, {"qk_norm": True, "nope_layers": (0,)}]
)
def test_options_that_no_family_has_together_are_refused(options):
    config = ModelConfig(**{**SHAPE, "vocab_size": 300, **options})
    with pytest.raises(CheckpointError, match=" with ".join(rf"\[model\]\.{key}" for key in options)):
        config_of(config, None, None, "float32")


KINDS = "expected llama, ministral, mistral, qwen2, qwen3, smollm3, which is what can be represented here"
ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
REFUSED = {
    "another kind of model": ({"model_type": "gpt2"}, f'model_type: {KINDS}, got "gpt2"$'),
    "experts": ({"model_type": "mixtral"}, 'got "mixtral": it has experts'),
    "norms behind": (
        {"model_type": "olmo2"},
        'got "olmo2": it normalises what attention and feed',
    ),
    "a list of kinds": ({"model_type": ["llama"]}, "model_type: expected"),
    "no kind of model": ({"model_type": None}, "model_type: expected .* got null"),
    "biases of qwen3": ({**QWEN3, "attention_bias": True}, "attention_bias: expected false, got true"),
    "another scaled rotation": (
        {"rope_scaling": ROPE | {"rope_type": "longrope"}},
        'rope_scaling: rope_type: expected one of "default", "linear", "llama3", "yarn", got "longrope"',
    ),
    "no factor": ({"rope_scaling": {"type": "linear"}}, "rope_scaling: factor: expected a number"),
    "a text for a factor": (
        {"rope_scaling": {"type": "linear", "factor": "2"}},
        "rope_scaling: factor: expected a number above 0",
    ),
    "a key that changes the rotation": (
        {"rope_parameters": ROPE | {"rope_theta": 5.0, "llama_4_scaling_beta": 0.1}},
        "rope_parameters: llama_4_scaling_beta: expected no such key for llama3, got 0.1",
    ),
    "bounds that are not rounded": (
        {"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": False}},
        "truncate: expected true, got false",
    ),
    "two rotations": (
        {"rope_scaling": ROPE, "rope_parameters": ROPE | {"factor": 4.0}},
        "rope_scaling: expected what rope_parameters says",
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
    "a window that is none": ({**MISTRAL, "sliding_window": 0}, "sliding_window: expected a whole number of"),
    "a window in a text": ({**MISTRAL, "sliding_window": "9"}, "sliding_window: expected a whole number of"),
    "layers without their window": (
        {**QWEN3, "layer_types": ["full_attention", "sliding_attention"]},
        'layer_types: expected "full_attention" in all layers, as there is no window',
    ),
    "layers of two kinds": (
        {"layer_types": ["full_attention", "sliding_attention"]},
        'layer_types: expected "full_attention" in all layers of a llama',
    ),
    "layers of an unknown kind": (
        {**QWEN3, "layer_types": ["full_attention", "chunked_attention"]},
        'layer_types: expected "full_attention" or "sliding_attention" for each layer',
    ),
    "too few kinds of layers": ({**MINISTRAL, "layer_types": ["full_attention"]}, "layer_types: expected"),
    "too few rotations": (
        {**SMOLLM3, "no_rope_layers": [1]},
        "no_rope_layers: expected 1 or 0 for each",
    ),
    "an interval of none": ({**SMOLLM3, "no_rope_layer_interval": 0}, "no_rope_layer_interval: expected"),
    "a layer that is no number": ({**QWEN2, "max_window_layers": None}, "max_window_layers: expected"),
    "odd heads": ({"head_dim": 15}, "head_dim: expected an even number"),
    "a great many layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers: expected at most 10,000"),
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
