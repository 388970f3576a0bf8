"""What an assembled run decides once: its precision."""

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest

from transformerlm.config import RuntimeConfig, TrainConfig
from transformerlm.distributed.ranks import Ranks
from transformerlm.distributed.world import World
from transformerlm.progress import SilentReporter
from transformerlm.runtime import Precision, precision
from transformerlm.schema import from_toml
from transformerlm.training import plan_run, train
from transformerlm.training.assembly import Assembly
from transformerlm.training.prepare import Prepared


class Heard(SilentReporter):
    def __init__(self):
        self.messages = []

    def say(self, message):
        self.messages.append(message)


def measured(monkeypatch, speedup):
    """Let every precision have this speed relative to float32, in place of a measurement."""
    seconds = {"float32": 1.0, "bfloat16": 1 / speedup, "float16": 1 / speedup}
    monkeypatch.setattr(precision, "measured_once", lambda measure, config, model, names: seconds)


def config_of(max_steps) -> TrainConfig:
    config = from_toml(TrainConfig, "config.toml")
    return dataclasses.replace(
        config,
        runtime=dataclasses.replace(config.runtime, dtype="auto", num_threads=1),
        training=dataclasses.replace(config.training, max_steps=max_steps),
    )


@pytest.mark.parametrize(("first", "name"), [(2.0, "bfloat16"), (0.5, "float32")])
def test_a_resumed_run_keeps_the_precision_that_it_began_with(first, name, workplace, monkeypatch):
    def kept():
        return tomllib.loads(Path("runs/fables/config.toml").read_text())["runtime"]["dtype"]

    monkeypatch.setattr("transformerlm.training.plan.MEASURED_SECONDS", 0.0)
    measured(monkeypatch, first)
    heard = Heard()
    train(config_of(3), heard, [])
    assert kept() == name
    assert any(f"on cpu, {name} (" in message for message in heard.messages)
    measured(monkeypatch, 1 / first)
    heard = Heard()
    assert name in str(plan_run(config_of(6)))
    assert train(config_of(6), heard, []).steps == 6
    assert kept() == name
    assert not any(
        "changed since the checkpoint: " in message and "dtype" in message for message in heard.messages
    )
    warnings = [message for message in heard.messages if "takes 2 x as long" in message]
    assert len(warnings) == (name == "bfloat16")


class SecondRank(Ranks):
    """Rank 1 of 2, in which rank 0 says that bfloat16 is faster."""

    def __init__(self):
        super().__init__(World(rank=1, size=2, local_rank=1, local_size=2))

    def broadcast_bytes(self, data):
        return json.dumps(dataclasses.asdict(Precision("bfloat16", "2 x float32's speed"))).encode()


def test_all_ranks_take_the_answer_of_the_first(monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "measured_once", lambda *arguments: pytest.fail("measured again"))
    assembly = Assembly(
        Prepared(TrainConfig(), None, None), tmp_path, SilentReporter(), SecondRank(), owns_process=False
    )
    assert assembly.choose_precision(RuntimeConfig(device="cpu")).name == "bfloat16"
