import json
import subprocess
import sys
from pathlib import Path

import pytest

from transformerlm.kernels.library import CACHE_VARIABLE, cache_dir

ROOT = Path(__file__).parents[2]
TINY = ["vocab_size=300", "context_length=16", "d_model=16", "num_layers=1", "num_heads=2", "d_ff=16"]
SHORT = ["prompt_length=4", "max_new_tokens=5", "rounds=2", "warmup_rounds=0", "batch_sizes=[1, 3]"]
SHORT += ["long_prompt_length=9", "num_different=6"]


def run_bench(directory: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    arguments = [f"--model.{value}" for value in TINY] + [f"--bench.{value}" for value in SHORT]
    command = [
        sys.executable,
        "-m",
        "benchmarking.bench_infer_latency",
        "--config",
        "configs/bench_infer.toml",
    ]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(directory)}
    environment[CACHE_VARIABLE] = str(cache_dir())  # kernels are compiled once for all tests
    return subprocess.run(
        [*command, *arguments, *overrides],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize(
    "peers", [pytest.param("[]"), pytest.param('["transformers"]', marks=pytest.mark.slow)]
)
def test_each_precision_batch_size_and_contestant_is_one_line(tmp_path, peers):
    result = run_bench(tmp_path, f"--bench.peers={peers}")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    contestants = ["transformerlm", *json.loads(peers)]
    assert [line["bench.contestant"] for line in lines] == contestants * 8
    works = ["1 x 4", "3 x 4", "first token after 9", "6 of 1 to 11"]
    assert [line["bench.work"] for line in lines[:: len(contestants)]] == works * 2
    for line in lines:
        if line["bench.contestant"] == "transformerlm":
            assert line["bench.times_slower_than_ours"] == 1
        num_tokens = line["bench.batch_size"] * (1 if line["bench.work"].startswith("first") else 5)
        assert line["metrics.tokens_per_second"] == pytest.approx(
            1000 * num_tokens / line["metrics.latency_ms"], 1e-4
        )


def test_texts_that_do_not_fit_the_context_are_refused(tmp_path):
    result = run_bench(tmp_path, "--bench.max_new_tokens=13", "--bench.long_prompt_length=16")
    assert result.returncode == 2
    assert "[bench].max_new_tokens: expected at most 12" in result.stderr
    assert "[bench].long_prompt_length: expected less than" in result.stderr
