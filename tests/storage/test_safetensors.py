import io
import json
import os
import random
import socket
import subprocess
import sys

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.errors import CheckpointError
from transformerlm.storage.safetensors import load_tree, printable, read_tree, tree_chunks
from transformerlm.storage.safetensors_header import DTYPES


def dump_tree(tree) -> bytes:
    size, chunks = tree_chunks(tree)
    data = b"".join(chunks)
    assert len(data) == size
    return data


def parse_tree(data, name):
    return read_tree(io.BytesIO(data), name)


def save_tree(tree, path):
    path.write_bytes(dump_tree(tree))


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


def numbers(dtype, *shape) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if dtype == torch.bool:
        return torch.randint(2, shape, generator=generator).bool()
    some = torch.randint(256, (*shape, dtype.itemsize), generator=generator, dtype=torch.uint8)
    return some.view(dtype).reshape(shape)  # any bits, the not-a-numbers among them


def same(left, right) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    left, right = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (left, right))
    return torch.equal(left, right)


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


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_the_safetensors_package_reads_what_is_written_and_writes_what_is_read(dtype, tmp_path):
    tensors = {"a": numbers(dtype, 3, 4), "b": numbers(torch.uint8, 5), "c": numbers(torch.float64, 2, 0)}
    save_tree(tensors, tmp_path / "ours")
    theirs = safetensors.torch.load_file(tmp_path / "ours")
    assert theirs.keys() == tensors.keys()
    tree = json.dumps({"dict": [[name, {"tensor": name}] for name in tensors]})
    safetensors.torch.save_file(tensors, tmp_path / "theirs", {"tree": tree})
    ours = load_tree(tmp_path / "theirs")
    for name, tensor in tensors.items():
        assert same(theirs[name], tensor)
        assert same(ours[name], tensor)


def test_tensors_lie_where_a_machine_can_use_them_in_place():
    data = dump_tree({"a": numbers(torch.uint8, 3), "b": numbers(torch.float64, 2)})
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    assert json.loads(data[8 : 8 + length])["b"]["data_offsets"] == [0, 16]


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


def test_more_tensors_than_can_be_read_again_are_refused_before_anything_is_written():
    one = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"cannot be saved: expected .* got"):
        tree_chunks({f"{n:100}": one + n for n in range(30_000)})


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


def test_only_files_are_opened_and_nothing_is_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # the path of a socket has to be short
        listener.bind("socket")
    (tmp_path / "file").write_bytes(dump_tree(1))
    (tmp_path / "link").symlink_to("file")
    assert load_tree(tmp_path / "link") == 1
    with pytest.raises(CheckpointError, match=r"link: expected a file, got a link"):
        load_tree(tmp_path / "link", follow_link=False)
    for name in ("fifo", "folder", "socket"):
        with pytest.raises(CheckpointError, match=f"{name}: expected a file, got a (?i:{name})$"):
            load_tree(tmp_path / name)
    with pytest.raises(CheckpointError, match="/dev/zero: expected a file, got a device"):
        load_tree("/dev/zero")


def test_what_is_read_does_not_hang_on_the_file(tmp_path):
    save_tree({"a": torch.arange(100_000)}, tmp_path / "t")
    back = load_tree(tmp_path / "t")["a"]
    os.truncate(tmp_path / "t", 0)  # of a file that is mapped, this kills whoever looks
    assert torch.equal(back, torch.arange(100_000))


def test_words_of_a_file_are_no_orders_to_a_terminal():
    assert printable("a\x1b[2J\nb\u202e") == "a\\x1b[2J\\nb\\u202e"
    assert printable("a" * 300) == "a" * 200 + "..."


def mutated(data: bytes, random: random.Random) -> bytes:
    """The file with something in its header changed: a value, a number, some bytes, or its length."""
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    kind = random.randrange(4)
    if kind == 0:
        values = json.loads(header)
        name = random.choice(list(values))
        strange = [
            0,
            -1,
            2**63,
            1.5,
            "x",
            None,
            True,
            [],
            {},
            [2**62, 4],
            [[]],
            "F32",
            {"tree": "[]"},
            [0, 4],
        ]
        values[name][random.choice([*values[name], "dtype"])] = random.choice(strange)
        header = json.dumps(values).encode()
    elif kind == 1:
        digits = [i for i, c in enumerate(header) if chr(c).isdigit()]
        at = random.choice(digits)
        header = (
            header[:at]
            + random.choice([b"0", b"9", b"-1", b"1e3", b"77777777777777777777"])
            + header[at + 1 :]
        )
    elif kind == 2:
        at, count = random.randrange(len(header)), random.randrange(4)
        header = header[:at] + random.randbytes(random.randrange(4)) + header[at + count :]
    else:
        length = random.choice([0, 1, length - 1, length + 1, len(data), 2**40, 2**63, 2**64 - 1])
        return length.to_bytes(8, "little") + header + rest
    return len(header).to_bytes(8, "little") + header + rest


def check_mutations(count: int, seed: int) -> None:
    rng = random.Random(seed)
    tree = {
        "w": torch.randn(3, 4),
        "s": [{0: torch.tensor(1)}, (torch.ones(0, 2), True)],
        "b": torch.ones(3) > 0,
    }
    data = dump_tree(tree)
    num_read = num_refused = 0
    for _ in range(count):
        changed = mutated(data, rng)
        if lines := refusal_of(changed):
            assert len(lines) == 1
            assert lines[0].isprintable()
            num_refused += 1
            continue
        # Whatever is taken for a file, the safetensors package takes for one too.
        safetensors.torch.load(changed)
        num_read += 1
    assert num_refused > count / 2
    assert num_read > count / 100


def refusal_of(data: bytes) -> list[str]:
    try:
        parse_tree(data, "x")
    except CheckpointError as error:
        return error.lines
    return []


def test_a_changed_header_is_read_or_refused_in_one_line():
    check_mutations(10_000, seed=0)


@pytest.mark.slow
@pytest.mark.endurance
def test_many_changed_headers_are_read_or_refused_in_one_line():
    check_mutations(200_000, seed=1)


LOAD = """
import re, sys
from transformerlm.storage.safetensors import load_tree

def at_most():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024

before = at_most()
load_tree(sys.argv[1])
print(at_most() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what a process has taken")
def test_a_file_is_held_once(tmp_path):
    save_tree({"a": torch.zeros(2**25), "b": torch.zeros(2**23)}, tmp_path / "t")  # 160 MiB
    command = [sys.executable, "-c", LOAD, str(tmp_path / "t")]
    taken = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert 155 <= taken <= 180
