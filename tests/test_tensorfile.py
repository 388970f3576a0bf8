import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.errors import CheckpointError
from transformerlm.tensorfile import dump_tree, load_tree, parse_tree, save_tree

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(trees)
def test_a_tree_without_tensors_comes_back_as_it_was(tree):
    back = parse_tree(dump_tree({"tree": tree, "one": torch.zeros(1)}), "x")["tree"]
    assert back == tree
    assert repr(back) == repr(tree)  # True is not 1, a tuple is not a list


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_come_back_to_the_bit(dtype, tmp_path):
    values = torch.randn(3, 4).to(dtype)
    tree = {"a": [values, values.t()], 0: {"scalar": values[0, 0], "empty": values[:0]}}
    save_tree(tree, tmp_path / "t")
    for back in (load_tree(tmp_path / "t"), parse_tree(dump_tree(tree), "t")):
        assert torch.equal(back["a"][0], values)
        assert torch.equal(back["a"][1], values.t())
        assert torch.equal(back[0]["scalar"], values[0, 0])
        assert back[0]["scalar"].shape == ()
        assert back[0]["empty"].shape == (0, 4)


def test_not_a_number_and_the_infinities_survive():
    back = parse_tree(dump_tree({"x": [float("inf"), float("-inf"), float("nan")]}), "x")["x"]
    assert back[:2] == [float("inf"), float("-inf")]
    assert back[2] != back[2]


def test_one_memory_is_stored_once_and_comes_back_as_one():
    weight = torch.randn(100, 100)
    back = parse_tree(dump_tree({"a": weight, "b": weight.detach()}), "x")
    assert back["a"] is back["b"]
    assert len(dump_tree({"a": weight, "b": weight})) < 1.1 * weight.nbytes


def test_parts_of_one_storage_are_stored_apart():
    whole = torch.arange(10.0)
    back = parse_tree(dump_tree({"a": whole[:5], "b": whole[3:], "c": whole}), "x")
    assert torch.equal(back["a"], whole[:5])
    assert torch.equal(back["b"], whole[3:])
    assert torch.equal(back["c"], whole)


def test_what_cannot_be_stored_is_refused_by_name():
    with pytest.raises(TypeError, match=r"a\.0: cannot save a set"):
        dump_tree({"a": [{1}]})
    with pytest.raises(TypeError, match="a: expected keys"):
        dump_tree({"a": {1.5: 0}})


def test_any_truncation_is_refused_in_one_line(tmp_path):
    data = dump_tree({"a": torch.arange(5), "b": [1, 2]})
    for length in range(len(data)):
        with pytest.raises(CheckpointError, match="not a whole checkpoint file") as caught:
            parse_tree(data[:length], "file.st")
        assert len(caught.value.lines) == 1
    (tmp_path / "t").write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="not a whole"):
        load_tree(tmp_path / "t")


@pytest.mark.parametrize(
    "tree", ["", "3", '{"tensor": "nope"}', '{"list": 3}', '{"what": []}', "[" * 9999, '{"a": 1, "b": 2}']
)
def test_a_shape_that_makes_no_sense_is_refused(tree):
    import safetensors.torch

    data = safetensors.torch.save({"a": torch.zeros(1)}, {"tree": tree})
    if tree == "3":
        assert parse_tree(data, "x") == 3
        return
    with pytest.raises(CheckpointError):
        parse_tree(data, "x")
