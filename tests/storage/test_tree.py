import io
import os

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.storage.trees import dump_tree, numbers, parse_tree, same, save_tree
from transformerlm.errors import CheckpointError
from transformerlm.storage.safetensors import tensor_chunks
from transformerlm.storage.safetensors_header import DTYPES
from transformerlm.storage.tree import flatten, load_tree, read_tree

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


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_tensors_come_back_to_the_bit(dtype, tmp_path):
    values = numbers(dtype, 3, 4)
    tree = {"a": [values, values.t()], 0: {"scalar": values[0, 0], "empty": values[:0]}}
    save_tree(tree, tmp_path / "t")
    for back in (load_tree(tmp_path / "t"), parse_tree(dump_tree(tree), "t")):
        assert same(back["a"][0], values)
        assert same(back["a"][1], values.t())
        assert same(back[0]["scalar"], values[0, 0])
        assert back[0]["empty"].shape == (0, 4)


@given(st.dictionaries(st.text("ab._1", max_size=4) | st.integers(0, 2), st.just(None), max_size=6))
def test_no_two_paths_in_a_tree_are_taken_for_one(keys):
    tree = {key: torch.tensor(float(n)) for n, key in enumerate(keys)}
    tree["nested"] = {key: torch.tensor(100.0 + n) for n, key in enumerate(keys)}
    for key in ("a", "__metadata__"):
        tree[key] = {"b": torch.tensor(-1.0)} if key == "a" else torch.tensor(-2.0)
    back = parse_tree(dump_tree(tree), "x")
    assert repr(back) == repr(tree)


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


def test_what_is_no_plain_memory_is_written_as_the_numbers_it_means():
    values = torch.randn(3, 4, dtype=torch.complex64)
    back = parse_tree(dump_tree({"conj": values.conj(), "neg": values.conj().imag, "x": values[::2, 1]}), "x")
    assert torch.equal(back["conj"], values.conj())
    assert torch.equal(back["neg"], -values.imag)
    assert torch.equal(back["x"], values[::2, 1])


def test_what_cannot_be_stored_is_refused_by_name():
    for tensor in (torch.eye(2).to_sparse(), torch.empty(2, device="meta")):
        with pytest.raises(TypeError, match=r"a\.0: cannot save a tensor that is sparse"):
            dump_tree({"a": [tensor]})
    with pytest.raises(TypeError, match=r"a: cannot save a tensor of torch.complex128"):
        dump_tree({"a": torch.zeros(1, dtype=torch.complex128)})
    with pytest.raises(TypeError, match="a: expected keys"):
        dump_tree({"a": {True: 0}})
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
    data = safetensors.torch.save({"a": torch.zeros(1)}, {"tree": tree})
    if tree == "3":
        assert parse_tree(data, "x") == 3
        return
    with pytest.raises(CheckpointError):
        parse_tree(data, "x")


def test_a_stream_is_read_to_its_end_from_where_it_stands():
    data = dump_tree({"a": torch.arange(5)})
    stream = io.BytesIO(b"before" + data)
    stream.seek(6)
    assert torch.equal(read_tree(stream, "x")["a"], torch.arange(5))
    with pytest.raises(CheckpointError, match="bytes of tensors"):
        parse_tree(data + b"\0", "x")
    reader, writer = os.pipe()  # cannot be asked for its size
    os.write(writer, data)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert torch.equal(read_tree(file, "x")["a"], torch.arange(5))


@pytest.mark.parametrize("chosen", [slice(None), slice(1, 3), slice(2, 2), slice(3, 99)], ids=str)
def test_rows_are_those_of_the_whole_tensor(chosen, tmp_path):
    dtypes = {"a": torch.float64, "b": torch.bfloat16, "c": torch.bool, "d": torch.uint8}
    tree = {name: (torch.arange(20).view(5, 2, 2) % 3).to(dtype) for name, dtype in dtypes.items()}
    tree |= {"scalar": torch.tensor(2.0), "empty": torch.zeros(0, 3), "vector": torch.arange(7.0)}
    save_tree(tree, tmp_path / "t")
    found = load_tree(tmp_path / "t", rows=lambda entry: chosen)
    assert torch.equal(found.pop("scalar"), tree.pop("scalar"))
    for name, tensor in tree.items():
        assert torch.equal(found[name], tensor[chosen])


def test_parts_are_one_tree_and_none_has_what_another_has(tmp_path):
    tensors, structure = flatten({"a": torch.ones(2), "b": [torch.zeros(3), 5]})
    for name, path in (("a", "1"), ("b.0", "2")):
        _, chunks = tensor_chunks({name: tensors[name]}, structure if path == "1" else {"format": "pt"})
        (tmp_path / path).write_bytes(b"".join(chunks))
    found = load_tree(tmp_path / "1", tmp_path / "2")
    assert torch.equal(found["b"][0], torch.zeros(3))
    assert found["b"][1] == 5
    with pytest.raises(CheckpointError, match="a: is in another part already"):
        load_tree(tmp_path / "1", tmp_path / "1")
    with pytest.raises(CheckpointError, match="1: not a whole checkpoint file"):
        load_tree(tmp_path / "1")
