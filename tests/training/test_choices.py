"""What "auto" in [runtime] stands for in a run."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.training.tiny_runs import CONFIG, changed
from transformerlm.checkpoint.store import Checkpoint
from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.runtime import Precision, Runtime
from transformerlm.schema import to_dict
from transformerlm.training import choices, part_speed
from transformerlm.training.choices import keep_begun, resolve_runtime, resolved_config
from transformerlm.training.part_speed import attention_seconds

FLOAT32 = Precision("float32")


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Every measurement has a given result."""
    monkeypatch.setenv("TRANSFORMERLM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(choices, "choose_num_threads", lambda model, num_tokens, dtype: 1)
    monkeypatch.setattr(choices, "attention_seconds", attention)


def attention(model, runtime):
    return {"kernels": 1.0, "torch": 0.5}


def test_auto_becomes_what_is_fast_here(measured):
    config = dataclasses.replace(RuntimeConfig(), device="cpu")
    found = resolve_runtime(CONFIG, config, FLOAT32, owns_process=True)
    expected = RuntimeConfig(
        device="cpu", dtype="float32", attention="torch", compile=False, num_threads=torch.get_num_threads()
    )
    assert found == expected
    assert resolve_runtime(CONFIG, found, FLOAT32, owns_process=True) == found


def test_a_config_without_auto_computes_as_the_one_with_it(measured, monkeypatch):
    monkeypatch.setattr(choices, "choose_precision", lambda config, model: Precision("bfloat16"))
    monkeypatch.setattr(choices, "choose_num_threads", lambda model, num_tokens, dtype: 2)
    before = torch.get_num_threads()
    try:
        config = changed(CONFIG, runtime={"dtype": "auto"})
        found = resolved_config(config)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    expected = {"dtype": "bfloat16", "attention": "torch", "compile": False, "num_threads": 2}
    assert found == changed(config, runtime=expected)


def test_a_host_program_keeps_its_number_of_threads(measured, monkeypatch):
    monkeypatch.setattr(choices, "choose_num_threads", lambda *arguments: pytest.fail("chosen"))
    found = resolve_runtime(CONFIG, RuntimeConfig(device="cpu"), FLOAT32, owns_process=False)
    assert (found.num_threads, found.attention) == ("auto", "torch")


def checkpoint(runtime) -> Checkpoint:
    return Checkpoint(Path("nowhere"), 3, {"config": {"runtime": runtime}}, {})


def test_a_resumed_run_keeps_what_it_began_with(monkeypatch):
    monkeypatch.setattr(choices, "available_cores", lambda: 4)
    begun = {"dtype": "bfloat16", "attention": "torch", "compile": True, "num_threads": 3}
    expected = RuntimeConfig(dtype="bfloat16", attention="torch", compile=True, num_threads=3)
    assert keep_begun(RuntimeConfig(), checkpoint(begun)) == expected
    by_name = RuntimeConfig(dtype="float32", attention="reference", compile=False, num_threads=2)
    assert keep_begun(by_name, checkpoint(begun)) == by_name
    assert keep_begun(RuntimeConfig(), None) == RuntimeConfig()
    assert keep_begun(RuntimeConfig(), checkpoint({**begun, "num_threads": 64})).num_threads == 4


@pytest.mark.parametrize(
    "begun",
    [
        {},
        to_dict(RuntimeConfig()),
        {"dtype": "auto", "num_threads": None},  # as older versions wrote it
        {"dtype": 3, "attention": "fast", "compile": "yes", "num_threads": 0},  # no run of this package
        "no table",
    ],
)
def test_what_says_nothing_is_chosen_anew(begun):
    assert keep_begun(RuntimeConfig(), checkpoint(begun)) == RuntimeConfig()


def test_attention_is_measured_without_a_trace():
    runtime = Runtime(torch.device("cpu"), torch.float32, kernels=True)
    before = torch.get_num_threads(), torch.get_rng_state()
    seconds = attention_seconds(CONFIG.model, runtime)
    assert seconds.keys() == {"kernels", "torch"}
    assert all(value > 0 for value in seconds.values())
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    long = ModelConfig(vocab_size=64, context_length=2048, d_model=16, num_heads=2)
    assert len(set(attention_seconds(long, runtime).values())) == 1  # the kernels are not used there


def test_a_block_is_measured_with_and_without_a_compiler(monkeypatch):
    monkeypatch.setattr(part_speed, "NUM_TOKENS", {"cuda": 32})
    monkeypatch.setattr(part_speed, "CALLS", 1)
    calls = []
    monkeypatch.setattr(part_speed, "compiled", lambda block, *arguments: calls.append(block) or block)
    runtime = Runtime(torch.device("cpu"), torch.float32)
    seconds = part_speed.block_seconds(changed(CONFIG).model, runtime)
    assert seconds.keys() == {"eager", "compiled", "compiling"}
    assert len(calls) == 1
