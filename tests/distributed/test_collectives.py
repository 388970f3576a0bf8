"""Two ranks against one process, for real: torchrun starts them, and bytes and messages are compared."""

import contextlib
import io
import json
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.distributed import cases
from tests.distributed.group import torchrun
from transformerlm.cli import make_data, train
from transformerlm.distributed.ranks import SINGLE_PROCESS
from transformerlm.errors import DataError
from transformerlm.logging import names, read_samples

ranks = [pytest.mark.distributed, pytest.mark.slow]


def with_ranks(test):
    for mark in ranks:
        test = mark(test)
    return test


def of_ranks(folder, name):
    """Of a command: the exit status of each rank, and what each has printed."""
    paths = sorted(folder.glob(f"{name}.*.status"))
    outputs = [path.with_suffix(".output").read_text() for path in paths]
    return [int(path.read_text()) for path in paths], outputs


def content_of(folder):
    """All files but locks, which say who held them last."""
    found = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder): path.read_bytes() for path in found}


def alone(main, arguments):
    output = io.StringIO()
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
        status = main(arguments)
    return status, output.getvalue()


def records(text, key):
    return [found[key] for found in map(json.loads, text.splitlines()) if key in found]


@with_ranks
def test_ranks_make_the_bytes_that_one_process_makes_and_say_so_once(ranks2, tmp_path):
    status, output = alone(make_data.main, cases.make_data_words(tmp_path, "files", ranks2 / "corpus"))
    assert status == 0
    assert content_of(ranks2 / "files") == content_of(tmp_path / "files")
    assert of_ranks(ranks2, "made") == ([0, 0], [output.replace(str(tmp_path), str(ranks2)), ""])
    statuses, (first, second) = of_ranks(ranks2, "made_again")
    assert (statuses, first.count("reused"), second) == ([0, 0], 2, "")


@with_ranks
@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("bad_byte", 3, r"bad/7\.txt: expected UTF-8, but byte \d+ is 0xff"),
        ("no_such_key", 2, r"\[data\]\.corpora: unknown key"),
        ("unequal", 2, r"\[training\]\.batch_size: expected a multiple of the 2 ranks, got 5"),
        ("locked", 75, "locked: in use by process "),
    ],
)
def test_what_is_refused_is_refused_on_all_ranks_and_said_once(ranks2, name, status, words):
    statuses, (first, second) = of_ranks(ranks2, name)
    assert (statuses, second) == ([status, status], "")
    assert len(re.findall(words, first)) == 1
    assert not list(ranks2.glob("bad_files/tokens/*.memmap"))


@with_ranks
def test_ranks_plan_train_and_verify_resuming(ranks2, tmp_path):
    statuses, (plan, second) = of_ranks(ranks2, "planned")
    assert (statuses, second, plan.count("memory  weights ")) == ([0, 0], "", 1)
    assert "2 on each of 2 ranks, in 1 pass\n" in plan
    assert ", on each rank\n" in plan
    statuses, (trained, second) = of_ranks(ranks2, "trained")
    assert (statuses, second) == ([0, 0], "")
    assert "on 2 x cpu, float32, " in trained
    statuses, (verified, _) = of_ranks(ranks2, "verified")
    assert statuses == [0, 0]
    assert verified.count("4 steps, straight and with a stop after 2: the same bits of weights") == 1

    cases.write_corpus(tmp_path)
    assert train.main(["--config", str(cases.write_config(tmp_path, "ranks"))]) == 0
    ours, theirs = ((folder / "ranks/run/metrics.jsonl").read_text() for folder in (ranks2, tmp_path))
    for name in (names.LOSS, names.VAL_LOSS):
        assert records(ours, name) == pytest.approx(records(theirs, name), abs=1e-5)
    written = [read_samples(folder / "ranks/run/samples.jsonl") for folder in (ranks2, tmp_path)]
    assert [sample.step for sample in written[0]] == [2, 4, 6]  # rank 0 alone
    assert [sample.text for sample in written[0]] == [sample.text for sample in written[1]]
    ours, theirs = (
        {path for path in content_of(folder / "ranks") if ".safetensors" not in path.name}
        for folder in (ranks2, tmp_path)
    )
    assert ours == theirs  # but for the parts of divided checkpoints


@with_ranks
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_ranks_start_from_the_same_weights(ranks2, tmp_path, sharding):
    statuses, (output, second) = of_ranks(ranks2, f"started_{sharding}")
    assert (statuses, second) == ([0, 0], "")
    assert output.count("starting from the weights of") == 1
    words = ["--config", str(ranks2 / "ranks.toml"), f"--training.start_from={ranks2}/ranks/run"]
    assert train.main([*words, f"--training.run_dir={tmp_path}/run"]) == 0
    run = ranks2 / f"started_{sharding}"
    for name in (names.LOSS, names.VAL_LOSS):
        ours, theirs, before = (
            records((folder / "metrics.jsonl").read_text(), name)
            for folder in (run, tmp_path / "run", ranks2 / "ranks/run")
        )
        assert ours == pytest.approx(theirs, rel=1e-4)
        assert ours[0] < before[0]
    if sharding == "none":  # one process would have written the same files
        assert content_of(run).keys() == content_of(tmp_path / "run").keys()


SLOW_BUILD = """
import os, signal, sys, time
from pathlib import Path
from transformerlm.cli import make_data
from transformerlm.data import build

folder = Path(sys.argv[1])
encode, rank = build.encode_item, int(os.environ["RANK"])

def slowly(*arguments):
    (folder / "building").touch()
    time.sleep(60)
    return encode(*arguments)

build.encode_item = slowly
if rank == 1:
    import threading
    def end():
        while not (folder / "building").exists():
            time.sleep(0.05)
        (folder / "killed").write_text(str(time.time()))
        os.kill(os.getpid(), int(sys.argv[2]))
    threading.Thread(target=end, daemon=True).start()
sys.exit(make_data.main(sys.argv[3:]))
"""


@with_ranks
def test_a_rank_killed_while_files_are_made_ends_all_and_the_next_start_makes_the_same_bytes(tmp_path):
    """No token file is visible then; what rank 0 has recorded may stay, to be gone on with."""
    cases.write_corpus(tmp_path)
    (tmp_path / "slow.py").write_text(SLOW_BUILD)
    words = [*cases.make_data_words(tmp_path, "files"), "--data.num_workers=1"]
    process = torchrun(2, tmp_path / "slow.py", tmp_path, int(signal.SIGKILL), *words)
    process.communicate(timeout=120)
    ended = time.time()
    assert process.returncode == 1
    assert ended - float((tmp_path / "killed").read_text()) < 30
    assert not list((tmp_path / "files" / "tokens").glob("*.memmap*"))
    assert alone(make_data.main, words)[0] == 0
    assert alone(make_data.main, cases.make_data_words(tmp_path, "straight"))[0] == 0
    made, straight = (content_of(tmp_path / name / "tokens") for name in ("files", "straight"))
    assert {name: data for name, data in made.items() if name.suffix == ".memmap"} == {
        name: data for name, data in straight.items() if name.suffix == ".memmap"
    }


def test_a_single_process_exchanges_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would fail
    one = SINGLE_PROCESS
    with one.connected(), one.collective_errors(), one.while_rank_0_works(), one.fail_together():
        assert one.all_gather_bytes(b"one") == [b"one"]
        assert one.all_gather_numbers([1.5]) == [[1.5]]
        assert one.broadcast_bytes(b"one") == b"one"
        one.barrier()
        one.leave()
    with pytest.raises(DataError), one.collective_errors():
        raise DataError("one's own")
