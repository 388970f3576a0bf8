"""The benchmark of training: every contestant is one line, and what is not there is said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = ["vocab_size=50", "context_length=16", "d_model=16", "num_layers=1", "num_heads=2", "d_ff=16"]
SHORT = ["rounds=2", "warmup_rounds=1", "batch_size=2"]


def run_bench(*overrides):
    shapes = [f"--{shape}.{value}" for shape in ("small", "medium", "large") for value in TINY]
    arguments = shapes + [f"--bench.{value}" for value in SHORT]
    command = [sys.executable, "-m", "benchmarking.bench_train", "--config", "configs/bench_train.toml"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run([*command, *arguments, *overrides], **options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.slow
def test_each_contestant_is_one_line():
    pytest.importorskip("transformers")
    lines, _ = run_bench('--bench.work=["small", "adamw"]')
    steps = [line for line in lines if line["bench.work"] == "small"]
    assert [line["bench.contestant"] for line in steps] == [
        *("transformerlm", "transformerlm float32", "transformerlm without kernels"),
        *("transformers bfloat16", "transformers float32"),
    ]
    for line in steps:
        tokens = 2 * 16 / line["bench.seconds_per_step"]
        assert line["metrics.tokens_per_second"] == pytest.approx(tokens, rel=1e-3)
        ratio = line["bench.seconds_per_step"] / steps[0]["bench.seconds_per_step"]
        assert line["bench.ours_is_faster_by"] == pytest.approx(ratio, rel=1e-3)
    assert [line["bench.contestant"] for line in lines if line["bench.work"] == "adamw"] == [
        "transformerlm",
        "torch fused",
    ]


def test_a_text_that_is_not_there_is_said():
    lines, said = run_bench('--bench.work=["time_to_loss"]', "--bench.text_path=nowhere.txt")
    assert lines == []
    assert "nowhere.txt: not found, time_to_loss left out" in said
