"""Making token files, interrupted in every way: what is done is gone on with, and nobody sees half of it."""

import dataclasses
import errno
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_disk import small_disk
from transformerlm.config import CorpusConfig
from transformerlm.data import build, build_journal, make_data
from transformerlm.data.build import TokenData
from transformerlm.data.build_journal import UNFINISHED, Progress, is_unfinished
from transformerlm.data.listing import RECORD_FILE
from transformerlm.data.token_file import TokenFile
from transformerlm.errors import DataError, OutputError
from transformerlm.tokenizer import Tokenizer

SCRIPT = Path(__file__).parent / "killed_makers.py"
EOT = "<|endoftext|>"
FILES = ["train.memmap", "train.memmap.json", "val.memmap", "val.memmap.json"]
SIZES = {"chunk_bytes": 1000, "commit_bytes": 3000}


class Interrupter:
    """A Reporter that remembers what it is told, and raises an error after so many bytes of corpus."""

    def __init__(self, after=None, error=KeyboardInterrupt):
        self.after, self.error = after, error
        self.messages, self.amounts = [], []

    def say(self, message):
        self.messages.append(message)

    def bar(self, total, unit, description):
        return self

    def update(self, amount):
        self.amounts.append(amount)
        if self.after is not None and sum(self.amounts) > self.after:
            raise self.error

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


def write_stories(path, number, seed=0):
    words = ["the", " cat", " sat", " on", " the", " mat", " 漢字", ".", "\n", "'s", " 123"]
    stories = ["".join(random.Random(f"{seed} {i}").choices(words, k=60)) for i in range(number)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(EOT.join(stories))


@pytest.fixture
def config(tmp_path):
    write_stories(tmp_path / "corpus" / "a.txt", 60)
    write_stories(tmp_path / "corpus" / "b.txt", 60, seed=1)
    return CorpusConfig(corpus=str(tmp_path / "corpus"), validation_fraction=0.2, num_workers=1)


HIDDEN = (".lock", RECORD_FILE)


def contents(folder):
    """Everything in it but the lock and the record of the corpus' files."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in HIDDEN]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def interrupted(config, tokenizer, folder, after=10_000, error=KeyboardInterrupt, **sizes):
    with pytest.raises(error):
        make_data(config, tokenizer, folder, Interrupter(after, error), **(sizes or SIZES))
    return Progress.read(folder)


def run_script(folder, *trials):
    """What killed_makers.py has seen in these trials, by their names."""
    command = [sys.executable, str(SCRIPT), str(folder), *trials]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """All trials of the default run in one interpreter, which imports the package once."""
    return run_script(tmp_path_factory.mktemp("makers"), "kill:20", "packed:12", "in_place:4", "crash")


PACKED = 0
"""Bytes done again are counted in the file, where a compressed one is read in blocks: often the same one."""


def check_kills(found, num_kills, *, least_redone=1):
    assert found["kills"] == num_kills
    assert found["builds"] >= 1  # each compared with one that was never interrupted
    assert found["resumed"] >= 3
    assert found["whole"] > 0
    assert (found["partial"], found["torn"]) == (0, 0)
    assert least_redone <= found["most_redone"] <= found["allowed"]


@pytest.mark.slow
def test_killed_at_any_moment_little_is_lost_and_nothing_partial_is_seen(seen):
    check_kills(seen["kill:20"], 20)


@pytest.mark.slow
@pytest.mark.endurance
def test_killed_many_times_little_is_lost_and_nothing_partial_is_seen(tmp_path):
    check_kills(run_script(tmp_path / "place", "kill:200")["kill:200"], 200)


@pytest.mark.slow
def test_killed_while_compressed_files_are_read_little_is_lost(seen):
    check_kills(seen["packed:12"], 12, least_redone=PACKED)


@pytest.mark.slow
@pytest.mark.endurance
def test_killed_many_times_while_compressed_files_are_read_little_is_lost(tmp_path):
    check_kills(run_script(tmp_path / "place", "packed:200")["packed:200"], 200, least_redone=PACKED)


@pytest.mark.slow
def test_a_maker_that_writes_in_place_is_found_out(seen):
    assert seen["in_place:4"]["partial"] > 0


@pytest.mark.slow
def test_ended_before_each_change_to_the_file_system_the_next_start_finishes(seen):
    found = seen["crash"]
    assert found["crashes"] >= 20
    # In this order, whatever the moment: the old ones, for some moments none, the new ones.
    assert found["seen"] == ["new", "none", "old"]
    assert sorted(found["order"], key=["old", "none", "new"].index) == found["order"]


def interrupt_at_line(number):
    """Raise KeyboardInterrupt before the so-many-th line that is run in build_journal.py."""
    left = [number]

    def trace(frame, event, argument):
        if frame.f_code.co_filename != build_journal.__file__:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)


def test_interrupted_at_any_line_it_leaves_a_record_or_nothing(tokenizer, tmp_path):
    """Signals raise exceptions between any two lines: each line is tried, to the end of the build."""
    write_stories(tmp_path / "a.txt", 25)
    config = CorpusConfig(corpus=str(tmp_path / "a.txt"), validation_fraction=0.2, num_workers=1)
    other = dataclasses.replace(config, validation_fraction=0.4)
    sizes = {"chunk_bytes": 4000, "commit_bytes": 5000}
    make_data(config, tokenizer, tmp_path / "straight")
    interrupted(other, tokenizer, tmp_path / "before", after=1000, chunk_bytes=1000, commit_bytes=1)
    folder, are_recorded = tmp_path / "tokens", []
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "before", folder)  # the record of another build, which has to go first
        interrupt_at_line(len(are_recorded) + 1)
        try:
            make_data(config, tokenizer, folder, **sizes)
            break
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        are_recorded.append(Progress.read(folder) is not None)
        assert is_unfinished(folder) == are_recorded[-1], f"line {len(are_recorded)}"
        if len(are_recorded) % 4 == 0:
            make_data(config, tokenizer, folder, **sizes)
            assert contents(folder) == contents(tmp_path / "straight")
    assert not is_unfinished(folder)
    assert len(are_recorded) > 50
    assert set(are_recorded) == {True, False}


def test_interrupted_again_while_it_removes_its_folder_the_next_build_does(
    config, tokenizer, tmp_path, monkeypatch
):
    folder = tmp_path / "tokens"

    def interrupt(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_journal.shutil, "rmtree", interrupt)
        assert interrupted(config, tokenizer, folder, after=2000) is None
    assert sorted(contents(folder)) == [f"{UNFINISHED}/train.memmap", f"{UNFINISHED}/val.memmap"]
    with pytest.raises(DataError, match="not finished yet"):
        TokenFile.open(folder / "train.memmap")
    make_data(config, tokenizer, folder, **SIZES)
    make_data(config, tokenizer, tmp_path / "straight")
    assert contents(folder) == contents(tmp_path / "straight")


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError, OutputError])
def test_whatever_ends_it_it_goes_on_and_comes_to_the_same(config, tokenizer, tmp_path, error):
    folder = tmp_path / "tokens"
    raised = error("x") if error is not KeyboardInterrupt else error()
    with pytest.raises(error):
        make_data(config, tokenizer, folder, Interrupter(10_000, raised), **SIZES)
    progress = Progress.read(folder)
    assert 10_000 - 3000 - 1500 <= progress.num_read <= 11_500
    listener = Interrupter()
    make_data(config, tokenizer, folder, listener, **SIZES)
    total = sum(path.stat().st_size for path in (tmp_path / "corpus").iterdir())
    line = f"{folder}: going on after {progress.num_read / 1e6:.1f} of {total / 1e6:.1f} MB"
    assert listener.messages == [line]
    assert listener.amounts[0] == progress.num_read
    assert sum(listener.amounts) == total
    make_data(config, tokenizer, tmp_path / "straight", **SIZES)
    assert contents(folder) == contents(tmp_path / "straight")
    assert sorted(contents(folder)) == FILES


def test_a_chain_of_interruptions_with_other_numbers_of_workers(config, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "WORKER_BYTES", 1)
    folder, recorded = tmp_path / "tokens", 0
    for turn in range(6):
        own = dataclasses.replace(config, num_workers=1 + turn % 3)
        progress = interrupted(own, tokenizer, folder, after=recorded + 4500)
        assert progress.num_read > recorded
        recorded = progress.num_read
    make_data(config, tokenizer, folder, **SIZES)
    make_data(config, tokenizer, tmp_path / "straight")
    assert contents(folder) == contents(tmp_path / "straight")


def touch(config):
    path = Path(config.corpus) / "b.txt"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    return config


def add_a_file(config):
    write_stories(Path(config.corpus) / "c.txt", 3)
    return config


def damage(name, content=None):
    def change(config):
        path = Path(config.corpus).parent / "tokens" / UNFINISHED / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content(path.read_bytes()))
        return config

    return change


def flip(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "is_said"),
    [
        (touch, True),
        (add_a_file, True),
        (lambda config: dataclasses.replace(config, validation_fraction=0.3), True),
        (lambda config: dataclasses.replace(config, validation_fraction=0), True),
        (lambda config: dataclasses.replace(config, encoding_errors="replace"), True),
        (damage("train.memmap"), True),
        (damage("val.memmap", lambda content: content[:100]), True),
        (damage("val.memmap", lambda content: b"\0" * len(content)), True),
        (damage("progress.json", lambda content: content.replace(b'"num_items": ', b'"num_items": 1')), True),
        (damage("progress.json", lambda content: content[:50]), True),
        (damage("progress.json", lambda content: b"[]"), True),
        (damage("progress.json", lambda content: b'{"parts": 1}'), True),
        (damage("progress.json"), False),
    ],
)
def test_what_was_begun_otherwise_or_is_damaged_is_made_anew(config, tokenizer, tmp_path, change, is_said):
    folder = tmp_path / "tokens"
    interrupted(config, tokenizer, folder)
    own = change(config)
    listener = Interrupter()
    make_data(own, tokenizer, folder, listener, **SIZES)
    what = "what was begun there is of other text, settings or tokenizer, or damaged; beginning anew"
    assert listener.messages == ([f"{folder}: {what}"] if is_said else [])
    make_data(own, tokenizer, tmp_path / "straight", **SIZES)
    assert contents(folder) == contents(tmp_path / "straight")


def test_another_tokenizer_begins_anew(config, tokenizer, overlapping_tokenizer, tmp_path):
    interrupted(config, tokenizer, tmp_path / "tokens")
    data = make_data(config, overlapping_tokenizer, tmp_path / "tokens", **SIZES)
    straight = make_data(config, overlapping_tokenizer, tmp_path / "straight")
    assert data.train.sha256 == straight.train.sha256


@pytest.mark.parametrize("place", [0, 7, 100])
def test_what_lies_behind_the_recorded_length_counts_for_nothing(config, tokenizer, tmp_path, place):
    folder = tmp_path / "tokens"
    interrupted(config, tokenizer, folder)
    for name in ("train.memmap", "val.memmap"):
        with (folder / UNFINISHED / name).open("ab") as file:
            file.write(b"\xff" * place)
    make_data(config, tokenizer, folder, **SIZES)
    make_data(config, tokenizer, tmp_path / "straight")
    assert contents(folder) == contents(tmp_path / "straight")


def test_while_it_is_made_the_old_files_are_the_files(config, tokenizer, tmp_path):
    folder = tmp_path / "tokens"
    make_data(config, tokenizer, folder, **SIZES)
    before = contents(folder)
    other = dataclasses.replace(config, validation_fraction=0.5)
    interrupted(other, tokenizer, folder)
    assert {name: content for name, content in contents(folder).items() if name in FILES} == before
    TokenData.open(config, folder).train.verify()


def test_before_the_first_record_an_error_leaves_nothing(config, tokenizer, tmp_path):
    interrupted(config, tokenizer, tmp_path / "tokens", after=2000)
    assert contents(tmp_path / "tokens") == {}
    assert not is_unfinished(tmp_path / "tokens")


def test_a_wrong_text_leaves_what_the_mended_text_makes_anew(config, tokenizer, tmp_path):
    path, folder = Path(config.corpus) / "c.txt", tmp_path / "tokens"
    path.write_bytes(b"bad \xff")
    with pytest.raises(DataError, match=r"c\.txt: expected UTF-8"):
        make_data(config, tokenizer, folder, **SIZES)
    assert sorted(contents(folder)) == [f"{UNFINISHED}/{name}" for name in ("progress.json", *FILES[::2])]
    path.write_bytes(b"good")
    make_data(config, tokenizer, folder, **SIZES)
    make_data(config, tokenizer, tmp_path / "straight")
    assert contents(folder) == contents(tmp_path / "straight")


def test_the_two_files_have_to_belong_together(config, tokenizer, tmp_path):
    make_data(config, tokenizer, tmp_path / "one")
    make_data(dataclasses.replace(config, validation_fraction=0.5), tokenizer, tmp_path / "other")
    for name in FILES[2:]:
        shutil.copy(tmp_path / "other" / name, tmp_path / "one" / name)
    with pytest.raises(DataError, match=r"val\.memmap: made from other text.* than train\.memmap") as caught:
        TokenData.open(config, tmp_path / "one")
    assert len(caught.value.lines) == 1


def test_a_folder_that_is_removed_under_way_is_an_error_and_no_half_data_set(config, tokenizer, tmp_path):
    folder = tmp_path / "tokens"

    class Remover(Interrupter):
        def update(self, amount):
            super().update(amount)
            if sum(self.amounts) > 5000 and folder.exists():
                shutil.rmtree(folder)

    with pytest.raises(OutputError, match=r"train\.memmap: removed by somebody while it was being written"):
        make_data(config, tokenizer, folder, Remover(), **SIZES)
    with pytest.raises(DataError):
        TokenFile.open(folder / "train.memmap")


@pytest.fixture
def disk(tmp_path):
    """A file system of 1 MB."""
    with small_disk(tmp_path / "disk", "1m"):
        yield tmp_path / "disk"


BYTES = Tokenizer({i: bytes([i]) for i in range(256)}, [])
"""One token a byte: more than what room is reckoned with."""


def test_a_disk_that_becomes_full_costs_nothing_that_is_done(tmp_path, disk):
    write_stories(tmp_path / "a.txt", 4000)
    config = CorpusConfig(corpus=str(tmp_path / "a.txt"), document_separator="", validation_split="tail")
    folder, sizes = disk / "tokens", {"chunk_bytes": 10_000, "commit_bytes": 50_000}
    with pytest.raises(
        OutputError, match=rf"^{folder}.*: cannot be written: No space left .* free"
    ) as caught:
        make_data(config, BYTES, folder, **sizes)
    assert len(caught.value.lines) == 1
    assert Progress.read(folder).num_read >= 300_000
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    listener = Interrupter()
    make_data(config, BYTES, folder, listener, **sizes)
    assert "going on after" in listener.messages[0]
    make_data(config, BYTES, tmp_path / "straight")
    assert contents(folder) == contents(tmp_path / "straight")


@pytest.mark.parametrize("limit", [0, 1, 500, 10_000, 20_000, 30_000])
def test_wherever_no_more_can_be_written_the_old_files_stay(config, tmp_path, limit):
    """A limit on the size of files stands for a full disk; where a record fits, the work is kept."""
    config, folder = dataclasses.replace(config, document_separator=""), tmp_path / "tokens"
    make_data(config, BYTES, folder)
    before = contents(folder)
    other = dataclasses.replace(config, validation_fraction=0.4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(OutputError, match=os.strerror(errno.EFBIG)) as caught:
            make_data(other, BYTES, folder, chunk_bytes=1000, commit_bytes=1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(caught.value.lines) == 1
    found = contents(folder)
    assert {name: found[name] for name in FILES} == before
    assert not [name for name in found if ".tmp." in name]
    assert is_unfinished(folder) == (limit >= 10_000)
    make_data(other, BYTES, folder, chunk_bytes=1000)
    make_data(other, BYTES, tmp_path / "straight")
    assert contents(folder) == contents(tmp_path / "straight")


def test_too_little_room_is_refused_before_anything_is_done(tmp_path, tokenizer):
    path = tmp_path / "a.txt"
    path.touch()
    size = 2 * shutil.disk_usage(tmp_path).free
    try:
        os.truncate(path, size)
    except OSError:
        pytest.skip("this file system has no files larger than itself")
    with pytest.raises(OutputError) as caught:
        make_data(CorpusConfig(corpus=str(path)), tokenizer, tmp_path / "no such" / "tokens")
    (line,) = caught.value.lines
    needed = size * tokenizer.dtype.itemsize // build.BYTES_PER_TOKEN
    assert line.startswith(
        f"{tmp_path / 'no such' / 'tokens'}: expected {needed:,} free bytes for the token files"
    )
    assert contents(tmp_path / "no such") == {}
