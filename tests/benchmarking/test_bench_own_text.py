"""The benchmark of one's own text: its rows, what it keeps, and its contestants against slow computations."""

import dataclasses
import json
import lzma
import math
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarking import bench_own_text, messages, own_text_nanogpt
from benchmarking.bench_own_text import BenchOwnTextConfig, BenchSection, Pair
from benchmarking.own_text_cells import Cells
from benchmarking.own_text_nanogpt import (
    Timing,
    encode,
    load_checkpoint,
    longest,
    text_loss,
    timing_of,
    write_data,
)
from benchmarking.own_text_report import HEADER, Row, record, table, verdict
from benchmarking.own_text_runs import PPMD_ORDERS, expectation, ppmd, progress, xz
from benchmarking.own_text_texts import Split, find_text
from benchmarking.pattern_families import FAMILIES, IN_ONE_PATTERN
from tests.benchmarking.tiny_bench import ROOT, run_bench
from tests.benchmarking.tiny_nanogpt import pair_bits_per_byte, write_checkout
from transformerlm.cli.command import load_config, parse_arguments
from transformerlm.config import TrainConfig
from transformerlm.errors import ConfigError, DataError
from transformerlm.schema import from_toml

PROSE = "A few words, and 1234 numbers; naïve 中文 it's\r\n\n  the end.\n"
SPLIT = Split((PROSE * 40).encode(), (PROSE[::-1] + PROSE * 3 + "§").encode())
SHORT = (
    *("--training.max_time=None", "--training.max_steps=3", "--schedule.warmup_steps=1"),
    *("--training.batch_size=2", "--training.validate_every=1", "--tokenizer.vocab_size=257"),
    *("--model.context_length=16", "--model.d_model=16", "--model.num_layers=1", "--model.num_heads=2"),
    *("--model.d_ff=16", "--runtime.device=cpu", "--runtime.dtype=float32", "--generation.max_new_tokens=1"),
)


def test_cells_are_found_again_wherever_the_file_was_cut(tmp_path):
    path = tmp_path / "results/cells.jsonl"
    first, second = {"contestant": "a", "time": "1s"}, {"contestant": "b"}
    cells = Cells(path)
    cells.keep(first, {"bits_per_byte": 1.25})
    whole = path.read_bytes()
    cells.keep(second, {"bits_per_byte": 2.5})
    content = path.read_bytes()
    for size in range(len(whole), len(content)):
        path.write_bytes(content[:size])
        cells = Cells(path)
        assert cells.find(dict(reversed(first.items()))) == {"bits_per_byte": 1.25}
        assert (cells.find(second) is None) == (
            size < len(content) - 1
        )  # without the end of line it is whole
        cells.keep(second, {"bits_per_byte": 3.0})
        assert Cells(path).find(first) == {"bits_per_byte": 1.25}
        assert Cells(path).find(second) == {"bits_per_byte": 3.0}
    path.write_bytes(content.replace(b"1.25", b"1.35"))
    assert Cells(path).find(first) is None


def test_the_beginning_of_a_text_cuts_no_character_and_no_file_of_several(tmp_path):
    source, work = tmp_path / ".hidden/source", tmp_path / "work"
    (source / "below").mkdir(parents=True)
    work.mkdir()
    (source / "a.txt").write_text("é" * 10)
    (source / "b.txt").write_text("b" * 100)
    (source / "aa.txt").write_bytes("é".encode("latin-1"))
    (source / "below/c.txt").write_text("c" * 10)
    beginning = find_text(str(source / "a.txt"), "a text", 5, work)
    assert (work / "a-text.txt").read_text() == "éé"
    assert (beginning.path, beginning.num_bytes) == (str(work / "a-text.txt"), 4)
    several = find_text(str(source), "several", 40, work)
    assert several.num_bytes == 30
    assert (work / "several/below/c.txt").read_text() == "c" * 10
    matched = find_text(f"{source}/**/*.txt", "matched", 40, work)
    assert matched.sha256 == several.sha256
    whole = find_text(str(source), "all", None, work)
    assert (whole.path, whole.num_bytes) == (str(source), 131)
    (source / "below/c.txt").write_text("d" * 10)
    assert find_text(str(source), "all", None, work).sha256 != whole.sha256
    with pytest.raises(DataError):
        find_text(str(tmp_path / "nowhere"), "none", None, work)


def test_messages_of_programs_are_documents_of_fifty(tmp_path, monkeypatch):
    pytest.importorskip("babel")
    from babel.messages.catalog import Catalog
    from babel.messages.mofile import write_mo

    catalog = Catalog("ru")
    for number in range(60):
        catalog.add(f"message {number}", f"сообщение {number}")
    catalog.add("a name", "a name")
    catalog.add("again", "сообщение 7")
    folder = tmp_path / "locale/ru/LC_MESSAGES"
    folder.mkdir(parents=True)
    for name in ("a.mo", "b.mo"):  # of two programs with the same messages
        with (folder / name).open("wb") as file:
            write_mo(file, catalog)
    monkeypatch.setattr(messages, "SHARE", tmp_path)
    found = find_text("messages:ru", "in Russian", None, tmp_path)
    documents = (tmp_path / "in-Russian.txt").read_text(encoding="utf-8").split("<|endoftext|>")
    assert [document.count("\n") for document in documents] == [50, 10]
    assert sorted("".join(documents).splitlines()) == sorted(f"сообщение {number}" for number in range(60))
    assert found.path == str(tmp_path / "in-Russian.txt")
    with pytest.raises(DataError, match="expected programs' messages"):
        find_text("messages:ja", "in Japanese", None, tmp_path)


def test_a_split_is_refused_where_it_is_not_the_one(tmp_path):
    SPLIT.save(tmp_path)
    assert Split.load(tmp_path, SPLIT.key) == SPLIT
    (tmp_path / SPLIT.key / "val.txt").write_bytes(b"another")
    for key in (SPLIT.key, "missing"):
        with pytest.raises(DataError, match="expected the texts"):
            Split.load(tmp_path, key)


def test_compressors_read_the_training_text_first():
    pyppmd = pytest.importorskip("pyppmd")

    def num_bytes(content, order):
        encoder = pyppmd.Ppmd7Encoder(order, 2**26)
        return sum(len(encoder.encode(bytes([byte]))) for byte in content) + len(encoder.flush())

    train, val = SPLIT.train, SPLIT.val
    sizes = {order: num_bytes(train + val, order) - num_bytes(train, order) for order in PPMD_ORDERS}
    found = ppmd(SPLIT)
    assert found["bits_per_byte"] == pytest.approx(8 * min(sizes.values()) / len(val))
    assert sizes[found["order"]] == min(sizes.values())
    alone, both = (len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) for text in (train, train + val))
    assert xz(SPLIT) == {"bits_per_byte": 8 * (both - alone) / len(val)}


def test_a_run_of_nanogpt_is_as_long_as_fits_and_ends_with_a_validation():
    printed = "step 0: train loss 4\n" + "".join(
        f"iter {number}: loss 4.1, time {500 if number == 0 else 20:.2f}ms, mfu -100.00%\n"
        for number in range(11)
    )
    timing = timing_of(3.7, printed)
    assert dataclasses.astuple(timing) == pytest.approx((3.5, 0.02, 0.48))
    for seconds in (1.0, 4.0, 10.0, 60.0, 600.0):
        length = longest(seconds, timing)
        assert length.iterations % length.eval_interval == 0
        assert length.iterations == 1 or length.eval_interval <= 375
        num_validations = length.iterations // length.eval_interval
        taken = 3.5 + 0.02 * length.iterations + 0.48 * num_validations
        assert length.iterations == 1 or 0.9 * seconds < taken < seconds + 0.48
    assert "--warmup_iters=100" in longest(600, timing).arguments
    assert "--warmup_iters=2" in longest(4, Timing(3.5, 0.02, 0.48)).arguments


def test_nanogpt_is_scored_on_every_character_of_the_validation_text(tmp_path):
    torch = pytest.importorskip("torch")
    checkout = write_checkout(tmp_path / "nanogpt")
    vocabulary = write_data(SPLIT, checkout / "data/own_text")
    assert list(vocabulary) == sorted(set((SPLIT.train + SPLIT.val).decode()))
    assert "§" in vocabulary  # which the training text lacks
    val = encode(SPLIT.val.decode(), vocabulary)
    assert np.fromfile(checkout / "data/own_text/val.bin", dtype=np.uint16).tolist() == val.tolist()
    weight = torch.zeros(len(vocabulary), len(vocabulary))
    state = {"table.weight": weight}
    arguments = {"vocab_size": len(vocabulary), "block_size": 8}
    (checkout / "out").mkdir()
    torch.save({"model": state, "model_args": arguments}, checkout / "out/ckpt.pt")
    model, block_size = load_checkpoint(checkout)
    for stride in (block_size, block_size // 2, 3):
        assert text_loss(model, val, block_size, stride) == pytest.approx(math.log(len(vocabulary)))


@pytest.mark.parametrize(("stride", "length"), [(8, 50), (4, 50), (3, 49), (4, 9), (4, 5)])
def test_nanogpt_sees_of_each_text_what_its_window_holds(stride, length):
    torch = pytest.importorskip("torch")
    ids = np.random.default_rng(length).integers(0, 5, length)

    class SeesAll(torch.nn.Module):
        """Logits of a prediction: for each id, how often the window has had it so far."""

        def forward(self, inputs, targets):
            assert inputs.shape[1] <= 8
            return torch.nn.functional.one_hot(inputs, 5).float().cumsum(1), None

    def nats(target):
        start = next(start for start in range(0, length, stride) if start + 8 >= target)
        counts = np.bincount(ids[start:target], minlength=5)
        return math.log(np.exp(counts).sum()) - counts[ids[target]]

    expected = np.mean([nats(target) for target in range(1, length)])
    assert text_loss(SeesAll(), ids, 8, stride, batch_size=3) == pytest.approx(expected, rel=1e-5)


def test_a_row_has_what_is_known(tmp_path):
    ours = {"vocab_size": 257, "d_model": 64, "num_layers": 2, "context_length": 128, "batch_size": 8}
    ours |= {"num_parameters": 1_500_000, "steps": 1234, "passes": 3.21, "seconds": 60.5}
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 4, "metrics.tokens": 100}\n{"step": 4, "metrics.val_bits_per_byte": 2.0}\n'
        '{"step": 8, "metrics.tokens": 200}\n{"step": 8, "metrics.val_bits_per_byte": 2.5}\n'
    )
    ours |= progress(tmp_path, 50)
    assert (ours["steps"], ours["best_step"], ours["passes"], ours["bits_per_byte"]) == (8, 4, 4.0, 2.0)
    assert ours["last_bits_per_byte"] == 2.5
    assert expectation(tmp_path) == {}
    (tmp_path / "expectation.json").write_text('{"bits_per_byte": 2.1, "low": 2.05, "high": 2.3}')
    expecting = {**ours, **expectation(tmp_path)}
    grid = {"--a=1": {"bits_per_byte": 2.0}, "--a=2": {"bits_per_byte": 1.6}}
    peers = {"PPMd": {"bits_per_byte": 2.016, "order": 6}}
    rows = [
        Row("play", "60s", expecting, peers, grid),
        Row("log", "2m", {**ours, "overlapped": 1.95, "with_memory": 1.5}),
        Row("notes", "1s", None),
    ]
    found = [record(row) for row in rows]
    assert found[0]["bench.ppmd_order"] == 6
    assert found[0]["bench.is_within_expected"] is False
    assert (found[0]["bench.grid_best"], found[0]["bench.chosen_to_best"]) == ("--a=2", 1.25)
    assert "bench.expected_bits_per_byte" not in found[1]
    assert found[2] == {"bench.text": "notes", "bench.time": "1s"}
    head, rule, play, log, notes = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in table(rows)
    )
    assert len({len(line) for line in table(rows)}) == 1
    assert head == list(HEADER)
    assert set("".join(rule)) == {"-"}
    assert play[2:] == [
        *(
            "257",
            "64 x 2",
            "128",
            "1.50 M",
            "8",
            "4.0",
            "2.100",
            "2.05 to 2.30",
            "2.000",
            "-",
            "-",
            "no",
            "60.5",
        ),
        *("2.016", "-", "-", "1.600", "1.250"),
    ]
    assert log[8:13] == ["-", "-", "2.000", "1.950", "1.500"]
    assert notes == ["notes", "1s", *["-"] * 18]
    assert list(verdict(rows)) == ["the interval held in 0 of 1"]
    assert list(verdict(rows[1:])) == []


def test_a_pair_is_a_line_as_in_a_shell():
    pair = Pair.parse('name="my text" text=a.txt first_bytes=80000 time=1h30m --runtime.num_threads=1')
    assert (pair.name, pair.first_bytes, pair.seconds, pair.num_threads) == ("my text", 80000, 5400, "1")
    assert Pair.parse("name=a").num_threads is None
    for line in ("text=a", "name=a time=5", "name=a tame=5m", 'name="a', "name=a grid=huge"):
        with pytest.raises(ConfigError):
            BenchSection(pairs=(line,))
    with pytest.raises(ConfigError, match="no name twice"):
        BenchSection(pairs=("name=a", "name=a time=5m"))
    with pytest.raises(ConfigError, match="expected names of pairs"):
        BenchSection(pairs=("name=a",), only=("b",))
    assert [pair.name for pair in BenchSection(pairs=("name=a", "name=b"), only=("b",)).chosen()] == ["b"]


def test_the_shipped_pairs_name_grids_of_at_least_twelve_valid_configs():
    config = from_toml(BenchOwnTextConfig, ROOT / "configs/bench_own_text.toml")
    names = {pair.grid for pair in config.bench.chosen()} - {None}
    assert names == {"small_text", "medium_text", "large_text"}
    for grid in (getattr(config, name) for name in names):
        words = [[*shlex.split(grid.arguments), *shlex.split(line)] for line in grid.candidates]
        time = "--training.max_time=60s"
        configs = [load_config(TrainConfig, parse_arguments([time, *overrides])) for overrides in words]
        assert len(set(configs)) == len(configs) >= 12


def test_the_shipped_patterns_are_compared_at_equal_steps():
    config = from_toml(BenchOwnTextConfig, ROOT / "configs/bench_patterns.toml")
    grid = config.medium_text
    seeds = set()
    for candidate in grid.candidates:
        words = ["--training.max_time=30s", *shlex.split(grid.arguments), *shlex.split(candidate)]
        found = load_config(TrainConfig, parse_arguments(words))
        assert (found.training.max_time, found.training.max_steps) == (None, 400)
        seeds.add((found.tokenizer.pattern, found.runtime.seed))
    names = ("gpt2", "llama3", "o200k", "qwen2")
    patterns = {IN_ONE_PATTERN["smollm"], *map(FAMILIES.__getitem__, names)}
    assert seeds == {(pattern, seed) for pattern in patterns for seed in (0, 1)}
    assert {pair.grid for pair in config.bench.chosen()} == {"medium_text"}


def arguments_of(tmp_path):
    """Arguments of a benchmark of two contestants that take seconds."""
    text = tmp_path / "text.txt"
    text.write_text(PROSE * 60, newline="")
    pairs = [f"name=tiny text={text} time=3s grid=small_text {' '.join(SHORT)}", "name=none text=/no/where"]
    candidates = ["--optimizer.lr=1e-9", "--model.no_such_key=1"]
    return [
        f"--bench.pairs={json.dumps(pairs)}",
        f"--bench.results={tmp_path / 'results'}",
        f"--bench.nanogpt_dir={write_checkout(tmp_path / 'nanogpt')}",
        "--small_text.arguments=--training.log_every=1",
        f"--small_text.candidates={json.dumps(candidates)}",
    ]


@pytest.mark.slow
def test_a_benchmark_goes_on_after_a_kill(tmp_path, capsys, monkeypatch):
    pytest.importorskip("pyppmd")
    monkeypatch.setattr(own_text_nanogpt, "MAX_RUNS", 1)
    arguments = arguments_of(tmp_path)
    config = ["--config", str(ROOT / "configs/bench_own_text.toml")]
    command = [sys.executable, "-m", "benchmarking.bench_own_text", *config, *arguments]
    cells, work = tmp_path / "results/cells.jsonl", tmp_path / "results/work"
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        while process.poll() is None and not cells.exists():
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    assert work.exists()
    kept = cells.read_bytes()
    status, (line,), said = run_bench(bench_own_text.main, "bench_own_text.toml", *arguments, capsys=capsys)
    assert status == 0, said
    assert "none: left out: [data].corpus: expected a file" in said
    assert "tiny, 3s: grid: --model.no_such_key=1: ended with status 2" in said
    assert sorted(path.name for path in cells.parent.iterdir()) == [".lock", "cells.jsonl", "splits"]
    content = cells.read_bytes()
    assert content.startswith(kept[: kept.rfind(b"\n") + 1])
    contestants = [json.loads(cell)["cell"]["contestant"] for cell in content.splitlines()]
    assert sorted(contestants) == ["PPMd", "grid: --optimizer.lr=1e-9", "nanoGPT", "transformerlm", "xz"]
    (split,) = (cells.parent / "splits").iterdir()
    train, val = ((split / f"{name}.txt").read_bytes().decode() for name in ("train", "val"))
    assert train + val == PROSE * 60
    assert line["bench.nanogpt_bits_per_byte"] == pytest.approx(pair_bits_per_byte(train, val), rel=1e-4)
    # A model that sees one character back needs the same, whatever else is before it.
    assert line["bench.nanogpt_overlapped"] == pytest.approx(line["bench.nanogpt_bits_per_byte"], rel=1e-6)
    assert line["bench.nanogpt_steps"] >= 1
    assert 0.5 < line["metrics.eval_bits_per_byte"] / line["metrics.val_bits_per_byte"] < 1.5
    assert (line["bench.steps"], line["bench.vocab_size"]) == (3, 257)
    assert line["bench.passes"] == pytest.approx(3 * 2 * 16 / len(train.encode()), rel=0.01)
    assert line["bench.chosen_to_best"] < 1
    assert "| tiny | 3s" in said
    status, _, said = run_bench(bench_own_text.main, "bench_own_text.toml", *arguments, capsys=capsys)
    assert status == 0, said
    assert cells.read_bytes() == content
