"""The choice of a precision by what is measured."""

import json
import os
import platform
import subprocess
import sys

import pytest
import torch

from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.infer.speed import generation_seconds
from transformerlm.runtime import Precision, choose_precision
from transformerlm.runtime.speed import product_seconds

MODEL = ModelConfig(vocab_size=64, context_length=16, d_model=16, num_layers=2, num_heads=2, d_ff=32)
AUTO = RuntimeConfig(device="cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFORMERLM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Machine:
    """A measurement whose result is given: the speed of other precisions relative to float32."""

    def __init__(self, speedup):
        self.__qualname__, self.speedup, self.num_calls = "Machine", speedup, 0

    def __call__(self, model, config, names):
        self.num_calls += 1
        return {name: 1.0 if name == "float32" else 1 / self.speedup for name in names}


@pytest.mark.parametrize(
    ("speedup", "expected"),
    [
        (2.0, Precision("bfloat16", "2 x float32's speed")),
        (1.05, Precision("float32", "bfloat16 has 1.05 x its speed")),  # not worth 16 bits
        (0.57, Precision("float32", "bfloat16 has 0.57 x its speed")),
    ],
)
def test_auto_takes_bfloat16_where_it_is_clearly_faster(speedup, expected):
    assert choose_precision(AUTO, MODEL, Machine(speedup)) == expected


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_a_precision_by_name_is_taken_and_a_slower_one_is_told(name):
    config = RuntimeConfig(device="cpu", dtype=name)
    slow = choose_precision(config, MODEL, Machine(0.004))
    assert (slow.name, slow.reason) == (name, "")
    assert f"[runtime].dtype: {name} takes 250 x as long as float32 on this processor" in slow.warning
    other = ModelConfig(vocab_size=65, d_model=16, num_heads=2)
    assert choose_precision(config, other, Machine(3.0)) == Precision(name)


def test_float32_by_name_is_not_measured():
    machine = Machine(2.0)
    assert choose_precision(RuntimeConfig(device="cpu", dtype="float32"), MODEL, machine) == Precision(
        "float32"
    )
    assert machine.num_calls == 0


def test_the_answer_stays_for_the_same_model_on_the_same_machine(cache):
    first, second = Machine(2.0), Machine(0.5)
    choose_precision(AUTO, MODEL, first)
    assert choose_precision(AUTO, MODEL, second).name == "bfloat16"
    assert (first.num_calls, second.num_calls) == (1, 0)
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:-9])  # damaged: measured again
    assert choose_precision(AUTO, MODEL, second).name == "float32"
    assert choose_precision(AUTO, MODEL, Machine(2.0)).name == "float32"


@pytest.mark.parametrize("change", ["sizes", "threads", "instructions"])
def test_other_conditions_are_measured_anew(change, monkeypatch):
    choose_precision(AUTO, MODEL, Machine(2.0))
    model = MODEL
    if change == "sizes":
        model = ModelConfig(vocab_size=64, context_length=16, d_model=32, num_layers=2, num_heads=2, d_ff=32)
    elif change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 999)
    else:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert choose_precision(AUTO, model, Machine(0.5)).name == "float32"


def test_without_a_folder_to_keep_it_in_each_time_is_measured(monkeypatch):
    monkeypatch.setenv("TRANSFORMERLM_CACHE_DIR", os.devnull)
    assert choose_precision(AUTO, MODEL, Machine(2.0)).name == "bfloat16"
    assert choose_precision(AUTO, MODEL, Machine(0.5)).name == "float32"


@pytest.mark.parametrize("measure", [product_seconds, generation_seconds])
def test_measuring_changes_nothing_of_the_process(measure, monkeypatch):
    monkeypatch.delenv("TRANSFORMERLM_CACHE_DIR")  # of the kernels, which have been compiled
    before = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    with torch.autocast("cpu", torch.bfloat16):
        found = measure(MODEL, AUTO, ("float32", "bfloat16"))
        assert torch.is_autocast_enabled("cpu")
    assert found.keys() == {"float32", "bfloat16"}
    assert all(seconds > 0 for seconds in found.values())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == before[1:]


CHOOSE = """
import json, sys
from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.infer.speed import generation_seconds
from transformerlm.runtime import choose_precision
from transformerlm.runtime.speed import product_seconds
model = ModelConfig(vocab_size=4096, d_model=2048, num_heads=16, d_ff=5632)
for measure in (product_seconds, generation_seconds):
    for dtype in ("auto", "bfloat16"):
        chosen = choose_precision(RuntimeConfig(device="cpu", dtype=dtype), model, measure)
        print(json.dumps([chosen.name, chosen.warning]))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="lowers the instructions of an x86 processor")
def test_on_a_processor_without_bfloat16_auto_is_float32(tmp_path):
    """The processor may have a flag for it: what counts is what PyTorch reaches."""
    lowered = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    # Two threads would wait for each other for as long as other tests keep the processors.
    lowered |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHOOSE]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | lowered, check=True)
    names, warnings = zip(*map(json.loads, done.stdout.splitlines()), strict=True)
    assert names == ("float32", "bfloat16") * 2
    assert [bool(warning) for warning in warnings] == [False, True] * 2
