"""Readers that look all the time while others commit: what they get is whole, and never older than before."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest
import torch

from transformerlm.checkpoint.store import latest_checkpoint, prune_checkpoints, write_checkpoint
from transformerlm.storage.checksummed_json import RecordFormat, dump, load
from transformerlm.storage.files import committed_file, write_files

spawned = multiprocessing.get_context("spawn")
INDEX = RecordFormat(version=1, checksum_since=1, members={"index": int})


def commit_files(folder: Path, number: int) -> None:
    for index in range(1, number + 1):
        with committed_file(folder / "one") as file:
            file.write(dump({"format_version": 1, "index": index, "padding": "x" * (index * 997 % 50_000)}))


def commit_folders(folder: Path, number: int) -> None:
    for index in range(1, number + 1):
        content = json.dumps({"index": index, "padding": "y" * (index * 997 % 50_000)}).encode()
        write_files(folder / str(index), {"a": content, "b": content})


def commit_checkpoints(folder: Path, number: int) -> None:
    torch.set_num_threads(1)
    for step in range(1, number + 1):
        state = {"w": torch.full((step % 97 + 1,), float(step))}
        write_checkpoint(folder, step, state, {"step": step}, {})
        prune_checkpoints(folder, 2, None, {step, step - 1})


def index_of_file(folder: Path) -> int:
    path = folder / "one"
    return load(path.read_bytes(), INDEX)["index"] if path.exists() else 0


def index_of_folder(folder: Path) -> int:
    newest = max((int(path.name) for path in folder.iterdir() if path.name.isdigit()), default=0)
    if newest:
        a, b = ((folder / str(newest) / name).read_bytes() for name in ("a", "b"))
        assert a == b
        assert json.loads(a)["index"] == newest
    return newest


def index_of_checkpoint(folder: Path) -> int:
    # One that is pruned while it is read is passed over with a word, and the newer one is taken.
    found = latest_checkpoint(folder, lambda message: None)
    return found.step if found else 0


KINDS = [
    ("files", commit_files, index_of_file),
    ("folders", commit_folders, index_of_folder),
    ("checkpoints", commit_checkpoints, index_of_checkpoint),
]


def commit_all(folder: Path, numbers: list[int]) -> None:
    for (name, commit, _), number in zip(KINDS, numbers, strict=True):
        commit(folder / name, number)


@pytest.mark.slow
@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param([200, 200, 60], id="some"),
        pytest.param([1000, 1000, 300], marks=pytest.mark.endurance, id="many"),
    ],
)
def test_no_reader_ever_gets_a_part(numbers, tmp_path):
    for name, _, _ in KINDS:
        (tmp_path / name).mkdir()
    writer = spawned.Process(target=commit_all, args=(tmp_path, numbers))
    writer.start()
    deadline = time.monotonic() + 600
    for (name, _, read), number in zip(KINDS, numbers, strict=True):
        newest, seen = 0, set()
        while newest < number and time.monotonic() < deadline:
            index = read(tmp_path / name)
            assert index >= newest
            newest = index
            seen.add(index)
        assert newest == number
        assert len(seen) > 5  # they met while it was under way
    writer.join()
    assert writer.exitcode == 0
