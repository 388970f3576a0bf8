"""The benchmark of training: every contestant is one line, and what cannot be compared is named."""

import signal
import subprocess

import pytest
import torch

from benchmarking import bench_train, machine_jobs
from benchmarking.corpora import TEST_DATA
from benchmarking.timing import NO_BFLOAT16
from tests.benchmarking.tiny_bench import MODEL, run_bench
from transformerlm.config import ModelConfig, RuntimeConfig

SHAPES = [f"--{shape}.{value}" for shape in ("small", "medium", "large", "machine") for value in MODEL]
SHORT = ["--bench.rounds=2", "--bench.warmup_rounds=1", "--bench.batch_size=2", "--runtime.num_threads=1"]


@pytest.mark.slow
def test_each_contestant_is_one_line(capsys, monkeypatch, in_this_process):
    pytest.importorskip("transformers")
    ceiling = bench_train.Ceiling("float32", 1e12)  # measuring it takes seconds
    monkeypatch.setattr(bench_train, "flops_ceiling", lambda runtime: ceiling)
    monkeypatch.setattr(bench_train, "has_bfloat16", lambda device: False)
    arguments = [*SHAPES, *SHORT, '--bench.work=["small", "adamw"]']
    status, lines, said = run_bench(bench_train.main, "bench_train.toml", *arguments, capsys=capsys)
    assert status == 0, said
    assert NO_BFLOAT16 in said
    steps = [line for line in lines if line["bench.work"] == "small"]
    assert [line["bench.contestant"] for line in steps] == [
        *("transformerlm", "transformerlm float32", "transformerlm without kernels", "transformers float32"),
    ]
    for line in steps:
        tokens = 2 * 16 / line["bench.seconds_per_step"]
        assert line["metrics.tokens_per_second"] == pytest.approx(tokens, rel=1e-3)
        ratio = line["bench.seconds_per_step"] / steps[0]["bench.seconds_per_step"]
        assert line["bench.ours_is_faster_by"] == pytest.approx(ratio, rel=1e-3)
        assert line["bench.share_of_float32_ceiling"] > 0
    assert [line["bench.contestant"] for line in lines if line["bench.work"] == "adamw"] == [
        "transformerlm",
        "torch fused",
    ]


@pytest.mark.slow
def test_the_machine_is_a_line_for_each_contestant_and_load(capsys, in_this_process):
    arguments = ["--bench.rounds=1", "--bench.warmup_rounds=0", "--bench.calls=1", "--bench.steps_per_call=2"]
    arguments += ["--bench.busy_processes=[0, 1]", '--bench.work=["machine"]', "--runtime.device=cpu"]
    threads = torch.get_num_threads()
    try:
        run = run_bench(bench_train.main, "bench_train.toml", *SHAPES, *arguments, capsys=capsys)
    finally:
        torch.set_num_threads(threads)
    status, lines, said = run
    assert status == 0, said
    found = [(line["bench.busy_processes"], line["bench.contestant"]) for line in lines]
    names = ["one thread", "not measured", "measured"]
    assert found == [(number, name) for number in (0, 1) for name in names]
    for line in lines:
        base = lines[0 if line["bench.busy_processes"] == 0 else 3]
        ratio = base["bench.seconds_per_step"] / line["bench.seconds_per_step"]
        assert line["bench.speed_by_one_thread"] == pytest.approx(ratio, rel=1e-3)


def test_busy_processes_run_until_the_end_of_the_block(monkeypatch):
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command: started.append(popen(command)) or started[-1])
    with machine_jobs.busy_processes(2):
        assert [process.poll() for process in started] == [None, None]
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_bfloat16_runs_where_the_processor_has_it(has_bfloat16, monkeypatch, capsys):
    monkeypatch.setattr(bench_train, "has_bfloat16", lambda device: has_bfloat16)
    bench = bench_train.BenchSection(nanogpt_dir="somewhere")
    config = bench_train.BenchTrainConfig(bench=bench, runtime=RuntimeConfig(device="cpu"))
    names = bench_train.contestants(config, ModelConfig(vocab_size=300))
    assert ("transformers bfloat16" in names) == ("nanoGPT bfloat16" in names) == has_bfloat16
    assert {"transformers float32", "nanoGPT float32", "transformerlm"} <= names.keys()
    assert (NO_BFLOAT16 in capsys.readouterr().err) == (not has_bfloat16)


def test_a_text_that_is_not_there_is_named(capsys, monkeypatch):
    monkeypatch.delenv(TEST_DATA, raising=False)
    arguments = [*SHAPES, '--bench.work=["time_to_loss"]']
    status, lines, said = run_bench(bench_train.main, "bench_train.toml", *arguments, capsys=capsys)
    assert (status, lines) == (0, [])
    assert "{test_data}/tinyshakespeare.txt: not found, time_to_loss left out" in said
