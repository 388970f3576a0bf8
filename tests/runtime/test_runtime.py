import os
import subprocess
import sys
import time

import pytest
import torch

from transformerlm.config import RuntimeConfig
from transformerlm.errors import ConfigError
from transformerlm.runtime import (
    Runtime,
    choose_precision,
    measured_flops_ceiling,
    prepare_process,
    resolve_device,
)
from transformerlm.runtime.device import DTYPES
from transformerlm.runtime.runtime import TYPICAL

CPU = torch.device("cpu")


def test_auto_takes_what_is_there():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto").type == expected
    assert resolve_device("cpu") == CPU
    auto = RuntimeConfig(device="cpu")
    assert Runtime.from_config(auto).dtype == DTYPES[choose_precision(auto, TYPICAL).name]
    assert Runtime.from_config(RuntimeConfig(device="cpu", dtype="float16")).dtype == torch.float16


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(
        ConfigError, match=r"\[runtime\].device: expected a device of this machine \(.*cpu\), got cuda"
    ):
        Runtime.from_config(RuntimeConfig(device="cuda"))


def test_a_command_sets_its_seed_and_threads():
    before = torch.get_num_threads()
    try:
        prepare_process(RuntimeConfig(device="cpu", num_threads=1, seed=7))
        first = torch.randn(3)
        assert torch.get_num_threads() == 1
        prepare_process(RuntimeConfig(device="cpu", seed=7))
        assert torch.equal(torch.randn(3), first)
    finally:
        torch.set_num_threads(before)


def test_resolving_a_runtime_changes_nothing_of_the_process():
    before = torch.get_rng_state(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    other = RuntimeConfig(device="cpu", num_threads=before[1] + 1, seed=7, deterministic=True)
    Runtime.from_config(other)
    after = torch.get_rng_state(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_kernels_are_for_a_cpu_without_a_compiler():
    def kernels(**runtime):
        return Runtime.from_config(RuntimeConfig(device="cpu", **runtime)).kernels

    assert kernels(dtype="float32")
    assert kernels(dtype="bfloat16")
    assert not kernels(dtype="float16")
    assert not kernels(kernels=False)
    assert not kernels(compile=True)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_autocast_decides_the_precision_of_products_and_of_nothing_else(name):
    runtime = Runtime.from_config(RuntimeConfig(device="cpu", dtype=name))
    x = torch.randn(4, 4)
    with runtime.autocast():
        assert (x @ x).dtype == runtime.dtype
        assert (x + x).dtype == torch.float32
    assert name in str(runtime)


def test_the_ceiling_is_a_rate_that_a_product_can_reach():
    runtime = Runtime(CPU, torch.float32)
    ceiling = measured_flops_ceiling(runtime, seconds=0.05)
    left = torch.randn(512, 512)
    start = time.perf_counter()
    left @ left
    reached = 2 * 512**3 / (time.perf_counter() - start)
    assert ceiling > 1e8
    assert reached < 10 * ceiling


def test_measuring_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    measured_flops_ceiling(Runtime(CPU, torch.float32), seconds=0.01)
    assert torch.equal(torch.get_rng_state(), before)


COMPILE_WITHOUT_A_COMPILER = """
import torch
from transformerlm.progress import SilentReporter
from transformerlm.runtime import Runtime, compiled

class Heard(SilentReporter):
    def say(self, message):
        print(message)

model, runtime = torch.nn.Linear(4, 4), Runtime(torch.device("cpu"), torch.float32)
assert compiled(model, (torch.ones(2, 4),), runtime, Heard()) is model
assert all(parameter.grad is None for parameter in model.parameters())
"""


@pytest.mark.slow
def test_where_compiling_fails_there_is_one_warning_and_the_model_itself(tmp_path):
    environment = os.environ | {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE_WITHOUT_A_COMPILER]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("torch.compile failed, going on without it: ")
    assert done.stdout.count("\n") == 1


@pytest.mark.gpu
def test_cuda_runtime():
    runtime = Runtime.from_config(RuntimeConfig(device="cuda"))
    assert torch.cuda.get_device_name() in str(runtime)
    assert measured_flops_ceiling(runtime) > 1e11
