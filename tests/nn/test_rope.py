import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from transformerlm.nn import RotaryPositionEmbedding
from transformerlm.nn.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling, base_frequencies

THETA, D_K, LENGTH = 100.0, 8, 64


def rope() -> RotaryPositionEmbedding:
    return RotaryPositionEmbedding(THETA, D_K, LENGTH)


def rotated_by_hand(x: Tensor, positions: Tensor) -> Tensor:
    """Pairs as complex numbers, times e^(i angle), in float64."""
    frequencies = torch.tensor([THETA ** (-2 * i / D_K) for i in range(D_K // 2)], dtype=torch.float64)
    angles = positions.double().unsqueeze(-1) * frequencies
    turned = torch.view_as_complex(x.double().unflatten(-1, (-1, 2))) * torch.exp(1j * angles)
    return torch.view_as_real(turned).flatten(-2)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_equals_complex_rotation(leading):
    x, positions = torch.randn(*leading, 5, D_K), torch.tensor([0, 1, 7, 7, 63])
    assert_close(rope()(x, positions), rotated_by_hand(x, positions).float())


def test_positions_of_their_own_for_each_row_broadcast_over_heads():
    x, positions = torch.randn(2, 3, 5, D_K), torch.randint(LENGTH, (2, 1, 5))
    turned = rope()(x, positions)
    for row in range(2):
        assert_close(turned[row], rotated_by_hand(x[row], positions[row, 0]).float())


def test_position_zero_changes_nothing():
    x = torch.randn(4, D_K)
    assert_close(rope()(x, torch.zeros(4, dtype=torch.long)), x, rtol=0, atol=0)


def test_lengths_are_kept():
    x = torch.randn(3, LENGTH, D_K)
    assert_close(rope()(x, torch.arange(LENGTH)).norm(dim=-1), x.norm(dim=-1))


@given(query=st.integers(0, 31), key=st.integers(0, 31), shift=st.integers(0, 32))
def test_products_depend_on_the_distance_alone(query, key, shift):
    generator = torch.Generator().manual_seed(query * 1000 + key)
    q, k = torch.randn(2, 1, D_K, generator=generator)
    turn = rope()

    def product(m: int, n: int) -> Tensor:
        return (turn(q, torch.tensor([m])) * turn(k, torch.tensor([n]))).sum()

    assert_close(product(query, key), product(query + shift, key + shift), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_result_has_the_dtype_of_the_input(dtype):
    x, positions = torch.randn(LENGTH, D_K).to(dtype), torch.arange(LENGTH)
    turned = rope()(x, positions)
    assert turned.dtype == dtype
    # The tables are float32 for float64 inputs too: their seven digits are the definition.
    assert_close(
        turned,
        rotated_by_hand(x, positions).to(dtype),
        **({"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float64 else {}),
    )


def test_tables_are_exact_far_out():
    tables = RotaryPositionEmbedding(10_000.0, 4, 200_001)
    angle = torch.tensor(200_000.0, dtype=torch.float64)
    assert_close(tables.cos[-1, 0], angle.cos().float())
    assert_close(tables.sin[-1, 1], (angle / 100).sin().float())


@pytest.mark.parametrize("change", ["half", "bfloat16", "double", "to_empty", "deepcopy"])
def test_tables_stay_float32_and_exact(change):
    changed = {
        "half": lambda: rope().half(),
        "bfloat16": lambda: rope().to(torch.bfloat16),
        "double": lambda: rope().double(),
        "to_empty": lambda: RotaryPositionEmbedding(THETA, D_K, LENGTH, device="meta").to_empty(device="cpu"),
        "deepcopy": lambda: copy.deepcopy(rope()),
    }[change]()
    assert_close(changed.cos, rope().cos, rtol=0, atol=0)
    assert_close(changed.sin, rope().sin, rtol=0, atol=0)


def test_tables_are_where_they_are_asked_for_whatever_the_default_device():
    with torch.device("meta"):
        assert rope().cos.device.type == "cpu"
    assert RotaryPositionEmbedding(THETA, D_K, LENGTH, device="meta").cos.device.type == "meta"


def test_nothing_is_saved_and_nothing_is_trained():
    assert not rope().state_dict()
    assert not list(rope().parameters())


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="d_k"):
        RotaryPositionEmbedding(THETA, 7, LENGTH)


def test_a_position_beyond_the_table_is_an_error():
    with pytest.raises(IndexError):
        rope()(torch.randn(1, D_K), torch.tensor([LENGTH]))


def test_representation():
    assert repr(rope()) == "RotaryPositionEmbedding(theta=100.0, d_k=8, max_seq_len=64)"


SCALINGS = {
    "linear": (LinearScaling(4.0), {"factor": 4.0}),
    "llama3": (Llama3Scaling(8.0, 64), {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
    "llama3, other bounds": (
        Llama3Scaling(32.0, 32, 0.5, 2.0),
        {"factor": 32.0, "low_freq_factor": 0.5, "high_freq_factor": 2.0},
    ),
    "yarn": (YarnScaling(4.0, 64), {"factor": 4.0}),
    "yarn, other bounds": (
        YarnScaling(2.0, 256, 8.0, 2.0, 1.25),
        {"factor": 2.0, "beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 1.25},
    ),
    "yarn of one pair": (YarnScaling(2.0, 8, 0.1, 0.1), {"factor": 2.0, "beta_fast": 0.1, "beta_slow": 0.1}),
}


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize(("theta", "d_k"), [(100.0, 8), (1e4, 64), (5e5, 128)])
def test_scaled_frequencies_are_those_of_transformers(name, theta, d_k):
    rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
    from transformers import LlamaConfig

    scaling, given = SCALINGS[name]
    kind = name.partition(",")[0].partition(" ")[0]
    length = getattr(scaling, "original_length", 64)
    values = {"rope_type": kind, "rope_theta": theta, "original_max_position_embeddings": length, **given}
    peer = LlamaConfig(head_dim=d_k, max_position_embeddings=4 * length, rope_parameters=values)
    expected, factor = rope_utils.ROPE_INIT_FUNCTIONS[kind](peer, "cpu")
    assert_close(scaling.frequencies(theta, d_k).float(), expected, rtol=2e-6, atol=0)
    assert scaling.attention_factor == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("name", SCALINGS)
def test_scaling_leaves_fast_pairs_and_slows_the_others(name):
    scaling, given = SCALINGS[name]
    slower = base_frequencies(1e4, 64) / scaling.frequencies(1e4, 64)
    assert slower.min() >= 1 - 1e-12
    assert slower[-1].item() == pytest.approx(given["factor"])
    assert (slower.diff() > -1e-9).all()


def test_a_scaled_rotation_turns_by_its_frequencies_and_stretches_by_its_factor():
    scaling = YarnScaling(4.0, 16)
    scaled = RotaryPositionEmbedding(THETA, D_K, LENGTH, scaling=scaling)
    x, positions = torch.randn(3, 5, D_K), torch.tensor([0, 1, 7, 20, 63])
    angles = positions.double().unsqueeze(-1) * scaling.frequencies(THETA, D_K)
    turned = torch.view_as_complex(x.double().unflatten(-1, (-1, 2))) * torch.exp(1j * angles)
    expected = scaling.attention_factor * torch.view_as_real(turned).flatten(-2)
    assert_close(scaled(x, positions), expected.float())
    moved = copy.deepcopy(scaled).to(torch.bfloat16)  # the tables are filled again, scaled too
    assert_close(moved.cos, scaled.cos, rtol=0, atol=0)
