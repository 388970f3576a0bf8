"""Search spaces: what is read, what is refused, and the values that are drawn."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transformerlm.config import SweepConfig, TrainConfig
from transformerlm.config.space import Choices, Span, read_space
from transformerlm.errors import ConfigError
from transformerlm.schema import SchemaError, from_dict

REFUSED = {
    "optimizer.lrr": [1.0],
    "lr": [1.0],
    "optimiser.lr": [1.0],
    "optimizer.lr": [-1.0],
    "optimizer.eps": 3,
    "optimizer.betas": {"low": 0.1, "high": 0.9},
    "optimizer.muon_lr": {"low": 0.0, "high": 1.0, "scale": "log"},
    "optimizer.weight_decay": {"low": 0.2, "high": 0.1},
    "optimizer.max_grad_norm": {"low": 0.2, "upper": 0.1},
    "model.d_ff": [],
    "model.qk_norm": {"low": 0, "high": 1},
    "model.num_layers": {"low": 1.5, "high": 2},
    "model.num_heads": [2, 2],
    "model.d_model": {"low": 8, "high": 16, "num": 0},
    "model.rope_theta": {"low": 1.0, "high": 2.0, "scale": "cubic"},
    "model.norm_eps": {"low": 1.0},
    "training.run_dir": ["a", "b"],
    "runtime.seed": [1, 2],
    "wandb.project": ["a"],
    "sweep.method": ["grid"],
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_cannot_be_searched_is_refused_with_its_key(key):
    with pytest.raises(ConfigError) as error:
        read_space({"model.d_model": [8], key: REFUSED[key]} | {key: REFUSED[key]}, TrainConfig)
    assert [problem.key for problem in error.value.problems] == [("sweep", "space", key)]


def test_all_problems_are_told_at_once():
    with pytest.raises(SchemaError) as error:
        from_dict(SweepConfig, {"sweep": {"space": REFUSED}})
    assert [problem.key[-1] for problem in error.value.problems] == list(REFUSED)
    assert 'did you mean "lr"?' in str(error.value)
    assert 'did you mean "optimizer.lr"?' in str(error.value)


def test_a_key_may_be_written_in_quotes_or_as_tables():
    quoted = {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "scale": "log"}, "model.d_model": [8, 16]}
    nested = {"optimizer": {"lr": quoted["optimizer.lr"]}, "model": {"d_model": [8, 16]}}
    assert read_space(quoted, TrainConfig) == read_space(nested, TrainConfig)
    assert read_space(quoted, TrainConfig) == [
        Span("optimizer.lr", 1e-4, 1e-2, "log"),
        Choices("model.d_model", (8, 16)),
    ]
    # As on the command line, over those in quotes of a file.
    changed = read_space(quoted | {"optimizer": {"lr": [1e-3]}}, TrainConfig)
    assert changed == [Choices("optimizer.lr", (1e-3,)), Choices("model.d_model", (8, 16))]


def test_values_get_the_types_of_their_keys():
    space = {"optimizer.lr": [1], "model.num_kv_heads": ["None", 2], "optimizer.betas": [[0.9, 0.99]]}
    lr, heads, betas = read_space(space, TrainConfig)
    assert type(lr.values[0]) is float
    assert heads.values == (None, 2)
    assert betas.values == ([0.9, 0.99],)


def test_a_grid_needs_lists_or_a_number_of_values():
    space = {"optimizer.lr": {"low": 1e-4, "high": 1e-2}}
    with pytest.raises(SchemaError) as error:
        from_dict(SweepConfig, {"sweep": {"method": "grid", "space": space}})
    assert error.value.problems[0].key == ("sweep", "space", "optimizer.lr")


def test_a_range_gives_evenly_spread_values_of_a_grid():
    assert Span("a", 0.0, 0.2, num=3).grid == (0.0, 0.1, 0.2)
    assert Span("a", 1e-4, 1e-2, "log", num=3).grid == (1e-4, 1e-3, 1e-2)
    assert Span("a", 1, 3, num=9, is_whole=True).grid == (1, 2, 3)
    assert Span("a", 1, 3, num=1, is_whole=True).grid == (2,)


ENDS = st.integers(1, 10**6)


@example(low=63, size=1, place=0.0, is_log=True, is_whole=True)
@given(
    low=ENDS, size=ENDS, place=st.floats(0, 1, exclude_max=True), is_log=st.booleans(), is_whole=st.booleans()
)
def test_what_is_drawn_lies_within_the_range(low, size, place, is_log, is_whole):
    span = Span("a", low, low + size, "log" if is_log else "linear", is_whole=is_whole)
    value = span.at(place)
    assert low <= value <= low + size
    assert type(value) is (int if is_whole else float)
    # On its scale, the number is where it was asked for, up to the rounding.
    scale = math.log if is_log else float
    top = low + size + is_whole
    expected = scale(low) + place * (scale(top) - scale(low))
    assert scale(value) == pytest.approx(expected, rel=1e-3, abs=1.001 if is_whole else 1e-3)


@given(st.lists(st.integers(), min_size=1, max_size=9, unique=True))
def test_each_value_of_a_list_has_an_equal_part(values):
    axis = Choices("a", tuple(values))
    places = [index / 1000 for index in range(1000)]
    drawn = [axis.at(place) for place in places]
    assert drawn == sorted(drawn, key=values.index)
    assert max(map(drawn.count, values)) - min(map(drawn.count, values)) <= 1
