"""The benchmark runs, says what it leaves out, compares only what is equal, and asks for what it says."""

import io
import sysconfig
import tempfile
from pathlib import Path

import pytest

from benchmarking import bench_tokenizer
from benchmarking.corpora import PYTHON_MACHINE, gather, outside_path, python_sources, random_letters, write
from benchmarking.timing import Measured, Memory, Outcome
from benchmarking.tokenizer_jobs import documents
from benchmarking.tokenizer_report import TARGETS, Result, Results, record, report
from benchmarking.tokenizer_works import WORKS, package_of
from tests.benchmarking.tiny_bench import run_bench

ROOT = Path(__file__).parents[2]
PROSE = "A few words, and 1234 numbers; naïve 中文 <|endoftext|> it's\r\n\n  the end.\n"


@pytest.mark.slow
def test_every_contestant_does_every_work_as_we_do(tmp_path, monkeypatch, capsys, in_this_process):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(PROSE * 20 + (ROOT / "benchmarking/timing.py").read_text(), newline="")
    options = {
        "corpora": [str(corpus), str(tmp_path / "nowhere")],
        "document_kilobytes": 1,
        "huggingface_megabytes": 0.002,
        "letters_megabytes": [0.001, 0.002],
        "families": ["olmo2", "bloom"],
        "rounds": 1,
        "warmup_rounds": 0,
        "train_vocab_size": 400,
        "vocab_path": str(tmp_path / "vocab.json"),
        "merges_path": str(tmp_path / "merges.txt"),
    }
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in ("RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "")  # the benchmark sets them: afterwards they are as before
    overrides = [f"--bench.{key}={value}" for key, value in options.items()]
    status, lines, said = run_bench(bench_tokenizer.main, "bench_tokenizer.toml", *overrides, capsys=capsys)
    assert status == 0, said
    taken_part = {(line["bench.work"], line["bench.contestant"]) for line in lines}
    absent = {name for name in ("tokenizers", "tiktoken", "rustbpe", "gigatoken") if f"{name} is not" in said}
    assert taken_part == {
        (name, contestant)
        for name, work in WORKS.items()
        for contestant in work.contestants
        if package_of(contestant) not in absent
    }
    assert [line for line in lines if not line["bench.equal_to_ours"]] == []
    assert {line["bench.corpus"] for line in lines} > {f"{corpus}, olmo2", f"{corpus}, bloom"}
    assert all(line["metrics.megabytes_per_second"] > 0 for line in lines)
    assert all(line["bench.peak_megabytes"] > 1 for line in lines if line["bench.work"] == "train_memory")
    assert f"{tmp_path / 'nowhere'}: not found or empty, left out" in said
    assert "a vocabulary is trained instead" in said
    assert "| encode_letters | random letters |" in said
    assert list(tmp_path.glob("bench_tokenizer.*")) == []


def test_documents_are_cut_at_line_ends_and_make_the_whole_text():
    text = PROSE * 50 + "no line end" * 300
    cut = list(documents(io.BytesIO(text.encode()), 200))
    assert "".join(cut) == text
    assert len(cut) > 15
    assert all(document.endswith("\n") for document in cut[:-1])


def test_a_corpus_is_the_beginning_of_its_files_and_no_character_is_cut(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "a.txt").write_text("é" * 10)
    (source / "b.txt").write_text("中" * 10)
    sizes = {size: gather(str(source), size, target).num_bytes for size in (3, 20, 25, 50, 99)}
    assert sizes == {3: 2, 20: 20, 25: 23, 50: 50, 99: 50}
    assert gather(str(source), 99, target).path.read_text() == "é" * 10 + "中" * 10
    assert gather(str(tmp_path / "nowhere"), 99, target).num_bytes == 0


def test_python_sources_come_once_and_only_as_utf8(tmp_path, monkeypatch):
    for name, content in {
        "b.py": b"first",
        "c/a.py": b"second",
        "c/b.py": b"first",
        "d.py": b"\xff",
        "e.txt": b"no",
        "site-packages/f.py": b"another's",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    folders = {"stdlib": str(tmp_path), "purelib": str(tmp_path / "c"), "platlib": str(tmp_path / "c")}
    monkeypatch.setattr(sysconfig, "get_paths", lambda: folders)
    assert list(python_sources()) == [b"first", b"second"]
    assert list(python_sources([str(tmp_path / "site-packages")])) == [b"first", b"second", b"another's"]
    (tmp_path / "out").mkdir()
    assert gather(PYTHON_MACHINE, 7, tmp_path / "out").path.read_bytes() == b"firstse"


def test_data_outside_the_repository_is_named_by_a_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("TRANSFORMERLM_TEST_DATA", str(tmp_path))
    assert outside_path("{test_data}/text.txt") == f"{tmp_path}/text.txt"
    monkeypatch.delenv("TRANSFORMERLM_TEST_DATA")
    assert outside_path("{test_data}/text.txt") == "{test_data}/text.txt"
    assert outside_path("data/text.txt") == "data/text.txt"


def test_random_letters_are_always_the_same(tmp_path):
    assert random_letters(1000) == random_letters(1000)
    assert len(set(random_letters(1000))) == 26
    assert write("letters", [random_letters(1000)], 1000, tmp_path).num_bytes == 1000


def result(work, corpus, contestant, megabytes, seconds, *, fingerprint="same", peak=1):
    """A result whose rounds all took the same time."""
    memory = Memory(peak, 0)
    outcome = Outcome(memory, (Measured(seconds, 1.0, memory, fingerprint),) * 3, fingerprint)
    return Result(work, corpus, contestant, int(megabytes * 1e6), outcome, "same")


def test_rates_are_compared_also_between_texts_of_different_lengths():
    ours = result("encode_batch", "a", "transformerlm", 100, 0.5)
    theirs = result("encode_batch", "a", "tokenizers", 4, 2, fingerprint="other")
    line = record(theirs, ours)
    assert line["metrics.megabytes_per_second"] == 2
    assert line["bench.times_slower_than_ours"] == 100
    assert not line["bench.equal_to_ours"]
    table = report(Results([ours, theirs]), 2)
    assert "| encode_batch | a | tokenizers | 100 | 25 |  | reached |" in table
    assert "| encode_batch | a | 200 | 2 (differs) |" in table


@pytest.mark.parametrize(("megabytes", "asked"), [(2, 1), (100, 3.5)])
def test_small_and_large_corpora_have_their_own_targets(megabytes, asked):
    results = [
        result("train", "a", "transformerlm", megabytes, 1),
        result("train", "a", "rustbpe", megabytes, 2),
    ]
    verdict = "reached" if asked <= 2 else "missed"
    lines = [line for line in report(Results(results), 2).splitlines() if "rustbpe | 2 |" in line]
    assert lines == [f"| train | a | rustbpe | 2 | {asked:g} |  | {verdict} |"]


def test_the_remaining_targets():
    results = [
        result("train_memory", "a", "transformerlm", 100, 1, peak=200),
        result("train_memory", "a", "gigatoken", 100, 1, peak=300),
        result("decode_text", "a", "transformerlm", 100, 1),
        result("decode_text", "a", "gigatoken", 100, 2.5),
        result("encode_batch", "a", "transformerlm", 100, 1),
        result("make_data", "a", "transformerlm", 100, 2),
        result("encode_short", "ten words", "transformerlm", 50e-6, 20e-6),
        result("encode_letters", "one letter, 1 MB", "transformerlm", 1, 1),
        result("encode_letters", "one letter, 10 MB", "transformerlm", 10, 40),
    ]
    table = report(Results(results), 2)
    for line in (
        "| train_memory | a | gigatoken | 1.5 |  | 1 | reached |",
        "| decode_text | a | gigatoken | 2.5 | 1 | 2 | goal reached |",
        "| make_data | a | ours, encode_batch | 0.5 | 0.8 |  | missed |",
        "| encode_short | ten words | 25 µs | 1.25 | 1 |  | reached |",
        "| encode_letters | one letter | rate at 10 times the length | 0.25 | 0.5 |  | missed |",
    ):
        assert line in table


def test_every_target_is_about_contestants_that_meet():
    assert all(target.other in WORKS[target.work].contestants for target in TARGETS)
