"""The one command for a GPU: without one it runs through, and a part that fails harms no other."""

import pytest

from benchmarking import bench_gpu
from benchmarking.gpu_job import Job
from benchmarking.gpu_parts import parts
from transformerlm.config import ModelConfig
from transformerlm.schema import from_dict

JOB = Job({"vocab_size": 256, "d_model": 32, "num_heads": 2}, "cpu", "float32", 4, 2, 0.01, 8, None)


def test_a_table_fits_a_screen_and_names_what_failed():
    machine = {"device": "a GPU", "flops": 8e14, "bytes_per_second": 4e12, "torch": "2.15"}
    numbers = {"tokens_per_second": 1e5, "flops": 4e14, "peak_bytes": 2**33}
    found = dict.fromkeys(parts(JOB, (1, 8, 64)), numbers)
    found |= {"machine": machine, "tests": {"failed": "no memory"}, "resume": {"said": "the same bits"}}
    found["prefetch"] = {"failed": "a long word " * 12}
    lines = bench_gpu.table(found)
    assert lines[0] == "a GPU, torch 2.15: 800 TFLOP/s, 4,000 GB/s"
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 110
    assert next(line for line in lines if line.startswith("tests ")).endswith("FAILED: no memory")
    assert " 50%  8.0 GiB" in "\n".join(lines)


def test_a_part_is_compared_with_the_one_that_it_is_like():
    found = {"machine": {}, "train": {"tokens_per_second": 3.0}, "train: nanoGPT": {"tokens_per_second": 2.0}}
    found["generate 8"], found["generate 8: transformers"] = found["train"], found["train: nanoGPT"]
    words = [bench_gpu.row(name, found)[-1] for name in found]
    assert words == ["", "", '"train" is 1.50 x as fast', "", '"generate 8" is 1.50 x as fast']


def test_a_part_that_fails_or_takes_too_long_says_so():
    section = bench_gpu.BenchSection()
    assert "KeyError" in bench_gpu.run_part(JOB, "no such part", section, 60)["failed"]
    assert bench_gpu.run_part(JOB, "machine", section, 0.05) == {"failed": "took more than 0 seconds"}


SIZES = {**JOB.model, "context_length": 16, "num_layers": 1, "d_ff": 32}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["train", "train float16", "train muon", "prefetch", "resume", "generate 8"],
)
def test_parts_run_without_a_gpu(name):
    config = bench_gpu.BenchGpuConfig(tiny=from_dict(ModelConfig, SIZES, source=""))
    numbers = parts(bench_gpu.make_job(config), (8,))[name]()
    assert not {"failed", "left_out"} & numbers.keys(), numbers
    if name == "resume":
        assert numbers == {"said": "the same bits"}


@pytest.mark.slow
def test_the_command_runs_through_and_the_table_comes_last(capsys):
    arguments = ["--config", str(bench_gpu.ROOT / "configs" / "bench_gpu.toml")]
    arguments += ['--bench.parts=["tests", "int8"]', "--tiny.num_layers=1"]
    assert bench_gpu.main(arguments) == 0, capsys.readouterr().err
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cpu, float32")
    assert [line.split("  ")[0] for line in lines[1:]] == ["part", "tests", "int8, int4"]
    assert [line.rpartition("left out: ")[2] for line in lines[2:]] == ["no GPU", "for CPUs alone"]


@pytest.mark.endurance
def test_all_of_it_runs_through(capsys):
    assert bench_gpu.main(["--config", str(bench_gpu.ROOT / "configs" / "bench_gpu.toml")]) == 0
    assert "FAILED" not in capsys.readouterr().out
