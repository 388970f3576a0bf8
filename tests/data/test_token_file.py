import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from transformerlm.data import token_file as token_format
from transformerlm.data.sidecar import FORMAT_VERSION, sidecar_path
from transformerlm.data.token_file import TokenFile, TokenWriter, dtype_name_for
from transformerlm.errors import DataError, OutputError
from transformerlm.storage.checksummed_json import dump


def write(path, ids, vocab_size=1000, **known):
    with TokenWriter.create(path, vocab_size, "print", known, [{"name": "a.txt", "num_bytes": 9}]) as writer:
        for part in np.array_split(np.asarray(ids, np.int64), 3):
            writer.write(part, num_documents=1, num_bytes=2 * len(part))
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "new" / "train.memmap", range(1000), corpus="x")


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir() if p.name not in ("train.memmap", "train.memmap.json"))


@pytest.mark.parametrize(("vocab_size", "dtype", "size"), [(2**16, "<u2", 2), (2**16 + 1, "<u4", 4)])
def test_what_is_written_is_read(tmp_path, vocab_size, dtype, size):
    ids = np.random.default_rng(0).integers(0, vocab_size, 1001)
    path = write(tmp_path / "train.memmap", ids, vocab_size)
    file = TokenFile.open(path)
    assert path.stat().st_size == 1001 * size
    np.testing.assert_array_equal(np.fromfile(path, dtype), ids)
    np.testing.assert_array_equal(file.tokens, ids)
    assert file.tokens.dtype == np.dtype(dtype)
    assert (file.num_tokens, file.vocab_size, file.fingerprint) == (1001, vocab_size, "print")
    assert (file.num_documents, file.num_bytes) == (3, 2002)
    assert file.sidecar.largest_id == ids.max()
    file.verify()


def test_tokens_cannot_be_written_to(path):
    with pytest.raises(ValueError, match="read-only"):
        TokenFile.open(path).tokens[0] = 1


def test_the_sidecar_says_what_it_was_told(path):
    content = json.loads(sidecar_path(path).read_text())
    assert content["made_from"] == {"corpus": "x"}
    assert content["sources"] == [{"name": "a.txt", "num_bytes": 9}]
    assert content["format_version"] == FORMAT_VERSION


def test_no_tokens_are_a_token_file_too(tmp_path):
    file = TokenFile.open(write(tmp_path / "train.memmap", []))
    assert len(file.tokens) == 0
    assert file.sidecar.largest_id == -1
    file.verify()


@pytest.mark.parametrize(
    ("ids", "wrong"), [([0, 1000, 3], 1000), ([2**16], 2**16), ([-1], -1), ([2**40], 2**40)]
)
def test_an_id_that_does_not_fit_is_refused_and_leaves_nothing(tmp_path, ids, wrong):
    with pytest.raises(DataError, match=f"expected ids from 0 to 999 .*got {wrong}$"):
        write(tmp_path / "train.memmap", ids)
    assert list(tmp_path.iterdir()) == []


def test_an_error_midway_keeps_the_older_file(path):
    before = path.read_bytes(), sidecar_path(path).read_bytes()
    with pytest.raises(RuntimeError), TokenWriter.create(path, 10, "other") as writer:
        writer.write(np.arange(10))
        raise RuntimeError
    assert (path.read_bytes(), sidecar_path(path).read_bytes()) == before
    assert leftovers(path.parent) == []


def test_a_newer_file_replaces_the_older_one(path):
    write(path, [5, 6])
    assert TokenFile.open(path).tokens.tolist() == [5, 6]
    assert leftovers(path.parent) == []


@pytest.mark.parametrize("broken_call", range(1, 6))
def test_whatever_write_fails_the_pair_is_never_a_mixed_one(path, monkeypatch, broken_call):
    """The commit's system calls fail one after the other; what can be opened is all old or all new."""
    calls = 0

    def failing(function):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == broken_call:
                raise OSError(28, "No space left on device")
            return function(*arguments, **options)

        return call

    old = path.read_bytes()
    # As many tokens as before: only the order of the steps can tell new ids from the old sidecar.
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(os.fsync))
        with pytest.raises(OutputError, match=f"^{path}.*: cannot be written: No space left"):
            write(path, range(999, -1, -1))
    assert leftovers(path.parent) == []
    if sidecar_path(path).exists():
        TokenFile.open(path).verify()
        assert broken_call > 1 or path.read_bytes() == old
    else:
        with pytest.raises(DataError, match="sidecar"):
            TokenFile.open(path)


def truncate(path):
    os.truncate(path, path.stat().st_size - 2)


def extend(path):
    with path.open("ab") as file:
        file.write(b"\0")


def edit_sidecar(**changes):
    def edit(path):
        content = json.loads(sidecar_path(path).read_text())
        content.update(changes)
        del content["seal"]
        sidecar_path(path).write_bytes(dump({k: v for k, v in content.items() if v is not None}))

    return edit


def unseal_sidecar(path):
    content = json.loads(sidecar_path(path).read_text())
    del content["seal"]
    sidecar_path(path).write_text(json.dumps(content))


def interrupt(path):
    (path.parent / ".unfinished").mkdir()
    sidecar_path(path).unlink()


def overwrite_sidecar(content):
    return lambda path: sidecar_path(path).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "expected 1000 tokens of uint16 = 2000 bytes, got 1998 bytes"),
        (extend, "got 2001 bytes"),
        (lambda path: path.unlink(), "there is only its sidecar"),
        (lambda path: sidecar_path(path).unlink(), "its sidecar train.memmap.json is missing"),
        (lambda path: shutil.rmtree(path.parent), "no such token file"),
        (edit_sidecar(format_version=FORMAT_VERSION + 1), "a newer transformerlm"),
        (edit_sidecar(dtype="float16"), "expected dtype uint16 or uint32, got 'float16'"),
        (edit_sidecar(dtype="uint32"), "= 4000 bytes, got 2000"),
        (edit_sidecar(num_tokens=None), '"num_tokens" is missing'),
        (edit_sidecar(num_tokens="1000"), '"num_tokens" is missing or of a wrong type'),
        (edit_sidecar(num_tokens=True), '"num_tokens" is missing or of a wrong type'),
        (edit_sidecar(made_from=[]), '"made_from" is missing or of a wrong type'),
        (unseal_sidecar, "its own checksum is missing"),
        (
            overwrite_sidecar(b'{"format_version": 9}'),
            "expected format 2 or older, got 9: a newer transformerlm",
        ),
        (
            lambda path: (path.parent / ".unfinished").mkdir() or sidecar_path(path).unlink(),
            "not finished yet",
        ),
        (overwrite_sidecar(b""), "not valid JSON"),
        (overwrite_sidecar(b"\xff\xfe"), "not valid JSON"),
        (overwrite_sidecar(b"[" * 100_000), "not valid JSON"),
        (overwrite_sidecar(b"1" * 10_000), "not valid JSON"),
        (overwrite_sidecar(b"[]"), "not a JSON object"),
    ],
)
def test_damage_is_found_on_opening(path, damage, message):
    damage(path)
    with pytest.raises(DataError, match=message) as caught:
        TokenFile.open(path)
    assert len(caught.value.lines) == 1
    assert "\n" not in caught.value.lines[0]
    assert str(path) in caught.value.lines[0]


def test_every_flipped_bit_is_found_by_verify(path, monkeypatch):
    monkeypatch.setattr(token_format, "BLOCK_BYTES", 512)
    write(path, range(1000))
    content = path.read_bytes()
    assert len(TokenFile.open(path).sidecar.block_sha256) == 4
    for place in np.random.default_rng(0).integers(0, 8 * len(content), 200):
        path.write_bytes(flipped(content, place))
        start = place // 8 // 512 * 512
        with pytest.raises(DataError, match=rf"bytes {start} to {min(start + 512, 2000)} are not those"):
            TokenFile.open(path).verify()


def test_a_flipped_bit_of_each_byte_of_the_sidecar_is_found_on_opening(path):
    content = sidecar_path(path).read_bytes()
    for place in (8 * byte + byte % 8 for byte in range(len(content))):
        sidecar_path(path).write_bytes(flipped(content, place))
        with pytest.raises(DataError) as caught:
            TokenFile.open(path)
        assert str(sidecar_path(path)) in caught.value.lines[0]
        assert len(caught.value.lines) == 1


def flipped(content, place):
    content = bytearray(content)
    content[place // 8] ^= 1 << place % 8
    return bytes(content)


def test_all_that_is_wrong_is_named_in_one_line(path, monkeypatch):
    monkeypatch.setattr(token_format, "BLOCK_BYTES", 256)
    write(path, range(1000))
    content = bytearray(path.read_bytes())
    for place in (300, 600, 1999):
        content[place] ^= 1
    path.write_bytes(content)
    read = []
    with pytest.raises(DataError, match="bytes 256 to 768 and 1792 to 2000 are not those"):
        TokenFile.open(path).verify(read.append)
    assert read == [256] * 7 + [208]


def test_a_file_of_format_1_still_loads_and_verifies(tmp_path):
    """What this package wrote before sidecars were sealed, kept as it was written then."""
    golden = Path(__file__).parents[1] / "golden" / "token_file_1" / "train.memmap"
    file = TokenFile.open(golden)
    assert file.sidecar.format_version == 1
    assert file.tokens.tolist() == [*(7 * i % 1000 for i in range(100)), 999]
    assert (file.vocab_size, file.num_documents, file.num_bytes, file.fingerprint) == (1000, 3, 203, "f" * 64)
    assert file.made_from == {"[data].corpus": "fables", "[data].validation_fraction": 0.05}
    file.verify()
    copy = shutil.copytree(golden.parent, tmp_path / "copy") / golden.name
    copy.write_bytes(flipped(copy.read_bytes(), 99))
    with pytest.raises(DataError, match="bytes 0 to 202 are not those"):
        TokenFile.open(copy).verify()


def test_it_goes_on_where_it_was_and_comes_to_the_same(tmp_path, monkeypatch):
    """A writer stopped after any number of ids, with anything behind them, against one that never was."""
    monkeypatch.setattr(token_format, "BLOCK_BYTES", 64)
    ids = np.random.default_rng(0).integers(0, 1000, 200)
    straight = TokenFile.open(write(tmp_path / "straight.memmap", ids))
    for stop in (0, 1, 31, 32, 33, 64, 199, 200):
        path = tmp_path / f"{stop}.memmap"
        with path.open("xb") as file:
            writer = TokenWriter(path, file, 1000)
            writer.write(ids[:stop], num_documents=1, num_bytes=2 * stop)
            writer.sync()
            written = writer.written
            file.write(b"left behind" * stop)
        with path.open("r+b") as file:
            writer = TokenWriter.resume(path, file, 1000, written)
            writer.write(ids[stop:], num_documents=2, num_bytes=2 * (200 - stop))
            sidecar = writer.sidecar("print", {}, [{"name": "a.txt", "num_bytes": 9}])
        assert sidecar == straight.sidecar
        assert path.read_bytes() == straight.path.read_bytes()


@pytest.mark.parametrize("damage", [truncate, lambda path: path.write_bytes(b"\1" * 100)])
def test_it_does_not_go_on_where_something_else_is(tmp_path, damage):
    path = tmp_path / "a.memmap"
    with path.open("xb") as file:
        writer = TokenWriter(path, file, 1000)
        writer.write(np.arange(50))
        writer.sync()
    damage(path)
    with path.open("r+b") as file, pytest.raises(DataError, match="its first 100 bytes are not those"):
        TokenWriter.resume(path, file, 1000, writer.written)


def test_checksums_do_not_depend_on_how_ids_come(tmp_path, monkeypatch):
    monkeypatch.setattr(token_format, "BLOCK_BYTES", 64)
    sums = set()
    for size in (1, 7, 32, 33, 500):
        path = tmp_path / f"{size}.memmap"
        with TokenWriter.create(path, 1000, "") as writer:
            for start in range(0, 500, size):
                writer.write(np.arange(start, min(start + size, 500)))
        TokenFile.open(path).verify()
        sums.add(TokenFile.open(path).sha256)
    assert len(sums) == 1


def test_sha256_tells_files_apart(tmp_path):
    one, other = write(tmp_path / "a.memmap", [1, 2, 3]), write(tmp_path / "b.memmap", [1, 2, 4])
    assert TokenFile.open(one).sha256 != TokenFile.open(other).sha256


def test_it_travels_by_path_and_not_by_content(path):
    file = TokenFile.open(path)
    assert file.tokens[5] == 5
    packed = pickle.dumps(file)
    assert len(packed) < 500
    np.testing.assert_array_equal(pickle.loads(packed).tokens, np.arange(1000))


def test_it_can_be_forked(path):
    file = TokenFile.open(path)
    assert file.tokens[1] == 1
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(sum_of, (file,)) == sum(range(1000))


def sum_of(file):
    return int(file.tokens.sum(dtype=np.int64))


def test_opening_reads_no_ids(path):
    """A file of 100 GB, sparse, opens as fast as a small one, and one byte more or less is found as fast."""
    num_tokens = 50 * 10**9
    try:
        os.truncate(path, 2 * num_tokens)
    except OSError:
        pytest.skip("this file system has no files of 100 GB")
    edit_sidecar(num_tokens=num_tokens)(path)
    started = time.process_time()  # which other work on the machine does not lengthen
    assert TokenFile.open(path).tokens[num_tokens - 1] == 0
    for wrong in (2 * num_tokens - 1, 2 * num_tokens + 1):
        os.truncate(path, wrong)
        with pytest.raises(DataError, match=f"= {2 * num_tokens} bytes, got {wrong} bytes"):
            TokenFile.open(path)
    assert time.process_time() - started < 1  # reading it would take a minute at the least


def test_one_that_is_open_stays_what_it_is_when_it_is_replaced(path):
    file = TokenFile.open(path)
    write(path, range(999, -1, -1))
    assert file.tokens.tolist() == list(range(1000))
    assert TokenFile.open(path).tokens.tolist() == list(range(999, -1, -1))


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path):
    """Two files of one length take each other's place; what a reader gets has its own sidecar's checksums."""
    path = tmp_path / "train.memmap"
    receiver, sender = multiprocessing.Pipe(duplex=False)
    reader = multiprocessing.get_context("fork").Process(target=read_for_ever, args=(path, receiver))
    reader.start()
    for turn in range(100):
        write(path, np.full(1000, turn % 2))
    sender.send("done")
    reader.join()
    assert reader.exitcode == 0


def read_for_ever(path, receiver):
    seen = set()
    while not receiver.poll():
        try:
            file = TokenFile.open(path)
        except DataError:
            continue
        content = file.tokens.tobytes()
        assert file.sidecar.block_sha256 == [hashlib.sha256(content).hexdigest()]
        seen.add(content)
    assert len(seen) == 2


@pytest.mark.parametrize(("vocab_size", "name"), [(256, "uint16"), (65536, "uint16"), (65537, "uint32")])
def test_the_narrowest_type_is_taken(vocab_size, name):
    assert dtype_name_for(vocab_size) == name
