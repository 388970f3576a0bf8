import dataclasses
from pathlib import Path

import pytest

from transformerlm.checkpoint.run_directory import (
    RunDirectory,
    check_same_run,
    differences,
    environment,
    identity,
)
from transformerlm.checkpoint.store import Checkpoint
from transformerlm.config import ModelConfig, TrainConfig
from transformerlm.data import TokenData
from transformerlm.errors import CheckpointError
from transformerlm.progress import SilentReporter
from transformerlm.schema import to_dict


class Heard(SilentReporter):
    def __init__(self):
        self.messages = []

    def say(self, message):
        self.messages.append(message)


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a: 1 -> 2"]),
        ({"a": 1}, {}, ["a: 1 -> None"]),
        ({}, {"a": 1}, ["a: None -> 1"]),
        ({"t": {"a": 1, "b": [1]}}, {"t": {"a": 1, "b": [2]}, "c": 3}, ["[t].b: [1] -> [2]", "c: None -> 3"]),
    ],
)
def test_differences_name_every_key_that_changed(old, new, lines):
    assert differences(old, new) == lines


def checkpoint(**changes) -> Checkpoint:
    about = {"identity": {"tokenizer": "t"}, "environment": environment(), "config": to_dict(TrainConfig())}
    return Checkpoint(Path("run/checkpoints/step_00000005"), 5, about | changes, {})


def test_the_same_run_goes_on_without_a_word():
    heard = Heard()
    check_same_run(checkpoint(), {"tokenizer": "t"}, TrainConfig(), heard)
    assert heard.messages == []


def test_another_tokenizer_is_refused():
    with pytest.raises(CheckpointError, match="tokenizer: t -> u"):
        check_same_run(checkpoint(), {"tokenizer": "u"}, TrainConfig(), Heard())


def test_a_checkpoint_from_before_a_key_of_the_model_goes_on_with_its_default():
    data, heard = TokenData(Files(), Files("b")), Heard()
    config = dataclasses.replace(TrainConfig(), model=ModelConfig(vocab_size=320))
    now = identity(config, data)
    then = {key: value for key, value in now.items() if key != "[model].qkv_bias"}
    check_same_run(checkpoint(identity=then, config=to_dict(config)), now, config, heard)
    assert heard.messages == []
    with pytest.raises(CheckpointError, match=r"\[model\].qkv_bias: None -> True"):
        check_same_run(checkpoint(identity=then), now | {"[model].qkv_bias": True}, config, heard)


def test_another_environment_is_one_warning():
    heard = Heard()
    before = environment() | {"num_threads": 999, "torch": "1.0"}
    check_same_run(checkpoint(environment=before), {"tokenizer": "t"}, TrainConfig(), heard)
    (message,) = heard.messages
    assert message.startswith("not bit for bit the run that was stopped: torch: 1.0 -> ")
    assert "num_threads: 999 -> " in message


OTHER_MODELS = {
    **{"vocab_size": 321, "context_length": 32, "d_model": 128, "num_layers": 3, "num_heads": 4},
    **{"num_kv_heads": 2, "d_ff": 64, "rope_theta": 5e5, "norm_eps": 1e-6, "tie_embeddings": True},
    **{"qk_norm": True, "qkv_bias": True, "d_head": 64, "nope_layers": (1,), "sliding_window": 9},
    **{"rope_scaling": "yarn", "rope_factor": 2.0, "rope_original_length": 16, "rope_attention_factor": 1.5},
    **{"rope_low_freq_factor": 2.0, "rope_high_freq_factor": 3.0, "rope_beta_fast": 16.0},
    **{"rope_beta_slow": 2.0, "full_attention_layers": (0,)},
}
NEEDED_BY = {
    "rope_low_freq_factor": {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_length": 64},
    "full_attention_layers": {"sliding_window": 8},
}
NEEDED_BY["rope_high_freq_factor"] = NEEDED_BY["rope_low_freq_factor"]
for _key in ("rope_factor", "rope_original_length", "rope_beta_fast", "rope_beta_slow"):
    NEEDED_BY[_key] = NEEDED_BY["rope_attention_factor"] = {
        **{"rope_scaling": "yarn", "rope_factor": 8.0, "rope_original_length": 64},
    }
NEEDED_BY["rope_scaling"] = {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_length": 64}
"""Key -> the others without which it cannot be set."""
OTHER_DATA = {"tokenizer": "t2", "train data": "a2", "val data": "b2"}
OTHER_ENVIRONMENTS = {
    **{"transformerlm": "0.0", "torch": "1.0", "numpy": "1.0", "numba": "0.1", "python": "2.7"},
    **{"machine": "vax", "num_threads": 999, "num_ranks": 999},
}
OTHER_SETTINGS = {
    "optimizer": {"lr": 0.5, "weight_decay": 0.5, "betas": (0.5, 0.5)},
    "training": {"batch_size": 7, "max_steps": 777, "checkpoint_every": 3},
    "runtime": {"seed": 5, "kernels": False, "num_threads": 9},
    "schedule": {"warmup_steps": 1},
}


class Files:
    """What `identity` reads of the token files."""

    def __init__(self, sha256="a", fingerprint="t"):
        self.sha256, self.fingerprint = sha256, fingerprint


def test_every_key_of_the_model_is_among_the_mutations():
    assert OTHER_MODELS.keys() == {field.name for field in dataclasses.fields(ModelConfig)}
    assert OTHER_ENVIRONMENTS.keys() == environment().keys()


@pytest.mark.parametrize(("key", "value"), OTHER_MODELS.items())
def test_another_model_is_refused_by_its_key(key, value):
    data = TokenData(Files(), Files("b"))
    model = ModelConfig(vocab_size=320, **NEEDED_BY.get(key, {}))
    config = dataclasses.replace(TrainConfig(), model=model)
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, **{key: value}))
    old = getattr(config.model, key)
    with pytest.raises(CheckpointError) as caught:
        check_same_run(checkpoint(identity=identity(config, data)), identity(other, data), other, Heard())
    old, value = (list(one) if isinstance(one, tuple) else one for one in (old, value))
    assert caught.value.lines[0] == f"run/checkpoints/step_00000005: [model].{key}: {old} -> {value}"
    assert len(caught.value.lines) == 2


@pytest.mark.parametrize(("key", "value"), OTHER_DATA.items())
def test_another_tokenizer_or_other_data_are_refused(key, value):
    now = {"tokenizer": "t", "train data": "a", "val data": "b"}
    with pytest.raises(CheckpointError) as caught:
        check_same_run(checkpoint(identity=now), now | {key: value}, TrainConfig(), Heard())
    assert caught.value.lines[0] == f"run/checkpoints/step_00000005: {key}: {now[key]} -> {value}"


@pytest.mark.parametrize(("key", "value"), OTHER_ENVIRONMENTS.items())
def test_each_change_around_a_run_is_one_warning(key, value):
    heard = Heard()
    before = environment() | {key: value}
    check_same_run(checkpoint(environment=before), {"tokenizer": "t"}, TrainConfig(), heard)
    line = f"{key}: {value} -> {environment()[key]}"
    assert heard.messages == [f"not bit for bit the run that was stopped: {line}"]


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [(table, key, value) for table, keys in OTHER_SETTINGS.items() for key, value in keys.items()],
)
def test_what_may_change_is_said_in_one_line(table, key, value):
    heard, config = Heard(), TrainConfig()
    section = dataclasses.replace(getattr(config, table), **{key: value})
    now = dataclasses.replace(config, **{table: section})
    check_same_run(checkpoint(), {"tokenizer": "t"}, now, heard)
    old, new = (to_dict(c)[table].get(key) for c in (config, now))
    assert heard.messages == [f"changed since the checkpoint: [{table}].{key}: {old} -> {new}"]


def test_a_checkpoint_knows_its_run(tmp_path):
    assert RunDirectory.of(Checkpoint(tmp_path / "checkpoints" / "step_1", 1, {}, {})).path == tmp_path
