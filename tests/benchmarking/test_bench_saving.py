"""The benchmark of saving: every measurement is one line."""

import pytest

from benchmarking import bench_saving
from tests.benchmarking.tiny_bench import run_bench


@pytest.mark.slow
def test_each_measurement_is_one_line(capsys, in_this_process):
    small = ["--bench.steps=2", "--bench.save_every=1", "--bench.rounds=1"]
    model = ["--model.d_model=16", "--model.num_layers=1", "--model.num_heads=2", "--model.d_ff=16"]
    arguments = [*small, *model, "--model.context_length=16"]
    status, lines, said = run_bench(bench_saving.main, "bench_saving.toml", *arguments, capsys=capsys)
    assert status == 0, said
    works = [line["bench.work"] for line in lines]
    assert works == ["config", *["open a token file"] * 2, "run", *bench_saving.CONTESTANTS]
    assert all(line.get("bench.ms", 1) > 0 for line in lines)
