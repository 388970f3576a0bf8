"""The choice of implementations by what is measured."""

import pytest
import torch

from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.runtime import Runtime, choose_attention, choose_compilation, this_machine
from transformerlm.runtime.machine import Machine

MODEL = ModelConfig(vocab_size=64, context_length=16, d_model=16, num_layers=2, num_heads=2, d_ff=32)
CPU = Runtime(torch.device("cpu"), torch.float32, kernels=True)
GPU = Runtime(torch.device("cuda"), torch.bfloat16)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFORMERLM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")


class Measured:
    """A measurement whose result is given; without one it must not be called."""

    def __init__(self, **seconds):
        self.__qualname__, self.seconds = "Measured", seconds

    def __call__(self, model, runtime):
        return self.seconds or pytest.fail("measured")


unmeasured = Measured()


@pytest.mark.parametrize(("torchs", "expected"), [(2.0, "kernels"), (0.95, "kernels"), (0.6, "torch")])
def test_attention_is_the_faster_one_and_stays(torchs, expected):
    measure = Measured(kernels=1.0, torch=torchs)
    assert choose_attention(RuntimeConfig(), MODEL, CPU, measure) == expected
    assert choose_attention(RuntimeConfig(), MODEL, CPU, unmeasured) == expected


def test_of_two_processes_that_measure_at_a_time_both_use_what_is_kept_first():
    theirs = Measured(kernels=1.0, torch=2.0)

    def ours(model, runtime):
        assert choose_attention(RuntimeConfig(), MODEL, CPU, theirs) == "kernels"
        return {"kernels": 1.0, "torch": 0.5}

    ours.__qualname__ = theirs.__qualname__  # the same measurement
    assert choose_attention(RuntimeConfig(), MODEL, CPU, ours) == "kernels"


def test_attention_by_name_or_without_kernels_is_not_measured():
    assert choose_attention(RuntimeConfig(attention="reference"), MODEL, CPU, unmeasured) == "reference"
    assert choose_attention(RuntimeConfig(), MODEL, GPU, unmeasured) == "torch"


@pytest.mark.parametrize(("compiled", "expected"), [(0.7, True), (0.95, False)])
def test_a_gpu_compiles_for_a_long_run_if_that_is_faster(compiled, expected):
    measure = Measured(eager=1.0, compiled=compiled, compiling=20.0)
    assert choose_compilation(RuntimeConfig(), MODEL, GPU, measure, is_long=True) is expected
    assert choose_compilation(RuntimeConfig(), MODEL, GPU, unmeasured, is_long=True) is expected


@pytest.mark.parametrize(("seconds", "expected"), [(600.0, True), (90.0, False)])
def test_a_run_for_a_time_compiles_if_it_gains_more_than_compiling_takes(seconds, expected):
    """Two blocks of 20 seconds; the steps take 40 % less time."""
    measure = Measured(eager=1.0, compiled=0.6, compiling=20.0)
    got = choose_compilation(RuntimeConfig(), MODEL, GPU, measure, is_long=True, run_seconds=seconds)
    assert got is expected


def test_compilation_elsewhere_is_as_asked_for():
    assert not choose_compilation(RuntimeConfig(), MODEL, GPU, unmeasured, is_long=False)
    assert not choose_compilation(RuntimeConfig(), MODEL, CPU, unmeasured, is_long=True)
    assert choose_compilation(RuntimeConfig(compile=True), MODEL, GPU, unmeasured, is_long=False)


def test_the_record_of_a_machine_is_one_line(monkeypatch):
    flops = {"float32": (60e9, 50e9), "bfloat16": (350e9, 200e9)}
    machine = Machine(2, 30000, flops)
    assert machine.bfloat16_speedup == 4.0
    assert str(machine) == (
        "float32 60 / 50, bfloat16 350 / 200 GFLOP/s at widths 256 / 1024, 2 threads, "
        "waiting threads poll 30,000 times"
    )
    emulated = Machine(1, None, {"float32": (60e9, 50e9), "bfloat16": (0.0, 0.0)})
    assert str(emulated) == "float32 60 / 50, bfloat16 emulated GFLOP/s at widths 256 / 1024, 1 thread"


def test_this_machine_is_measured_once(monkeypatch):
    first = this_machine()
    monkeypatch.setattr("transformerlm.runtime.machine.best_seconds", lambda work: pytest.fail("measured"))
    assert this_machine() == first
    assert all(flops > 0 for flops in first.flops_per_second["float32"])
    assert first.num_threads == torch.get_num_threads()
