"""The command that fits the memory's factors to runs."""

import shutil

import pytest

from benchmarking import fit_ngrams
from tests.benchmarking.tiny_bench import run_bench
from transformerlm.checkpoint.store import open_checkpoint
from transformerlm.report.card_source import recorded_validation

CPU = ("--runtime.device=cpu", "--runtime.num_threads=1", "--runtime.kernels=false")


@pytest.mark.slow
def test_each_run_is_one_line_and_then_the_factors(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    shutil.copytree("runs/fables", tmp_path / "again")
    runs = f'--bench.runs=["runs/fables", "{tmp_path / "again"}"]'
    status, lines, said = run_bench(fit_ngrams.main, "fit_ngrams.toml", *CPU, runs, capsys=capsys)
    assert status == 0, said
    first, second, mean, training, earlier = lines
    _, bits = recorded_validation(open_checkpoint(trained / "runs/fables", print))
    assert first["bench.network"] == pytest.approx(bits, rel=1e-4)
    assert first["bench.run"] == "runs/fables"
    assert second["bench.fitted_to_others"] == pytest.approx(
        first["bench.fitted"], rel=1e-3
    )  # it is the same
    assert first["bench.fitted"] <= first["bench.shipped"] < first["bench.network"]
    assert mean["bench.fitted"] == pytest.approx(first["bench.fitted"] / first["bench.network"], rel=1e-3)
    assert (training["bench.factors"], earlier["bench.factors"]) == ("training", "earlier")
    assert training.keys() - earlier.keys() == set()
    assert earlier.keys() - training.keys() == {"bench.order_1"}


@pytest.mark.slow
def test_one_run_alone_has_no_others(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    words = [*CPU, '--bench.runs=["runs/fables"]', "--bench.max_tokens=60"]
    status, (line, *_), said = run_bench(fit_ngrams.main, "fit_ngrams.toml", *words, capsys=capsys)
    assert status == 0, said
    assert line["bench.tokens"] == 59
    assert "bench.fitted_to_others" not in line


@pytest.mark.slow
def test_a_run_without_its_token_files_is_named(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained / "runs/fables", tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    words = [*CPU, '--bench.runs=["moved"]']
    status, lines, said = run_bench(fit_ngrams.main, "fit_ngrams.toml", *words, capsys=capsys)
    assert (status, lines) == (3, [])
    assert "moved: expected the token files of its training where its config says" in said
