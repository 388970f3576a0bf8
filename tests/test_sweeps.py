"""sweeps/train.yaml, expanded and started by wandb's own agent."""

import json
import os
import random
import sys
from pathlib import Path

import pytest
import yaml

from transformerlm.config import TrainConfig
from transformerlm.logging import names
from transformerlm.schema import field_types

ROOT = Path(__file__).parents[1]
SWEEP = yaml.safe_load((ROOT / "sweeps" / "train.yaml").read_text())

SHORT = {
    "data.corpus": None,  # filled in
    "tokenizer.vocab_size": 300,
    "model.d_model": 32,
    "model.num_heads": 2,
    "model.d_ff": 32,
    "model.context_length": 16,
    "training.batch_size": 2,
    "training.max_steps": 6,
    "training.max_time": None,
    "schedule.warmup_steps": 2,
    "training.validate_every": 0,
    "training.checkpoint_every": 0,
    "generation.max_new_tokens": 2,
}


def draw(generator: random.Random, parameter: dict):
    if "value" in parameter:
        return parameter["value"]
    if "values" in parameter:
        return generator.choice(parameter["values"])
    assert parameter["distribution"] == "log_uniform_values"
    return parameter["min"] * (parameter["max"] / parameter["min"]) ** generator.random()


def test_every_parameter_is_a_key_of_the_config_and_the_metric_is_logged():
    tables = field_types(TrainConfig)
    for name in SWEEP["parameters"]:
        table, key = name.split(".")
        assert key in field_types(tables[table])
    assert SWEEP["metric"]["name"] == names.VAL_LOSS


@pytest.mark.slow
def test_the_agent_starts_a_run_that_trains(tmp_path, monkeypatch):
    from wandb.wandb_agent import Agent

    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # the agent sets them in this process: afterwards they have to go
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    generator = random.Random(0)
    drawn = {name: draw(generator, parameter) for name, parameter in SWEEP["parameters"].items()}
    arguments = drawn | SHORT | {"data.corpus": "text.txt"}

    # The agent's own method; what it would need a server for (which run to start) is given by hand.
    agent = Agent.__new__(Agent)
    agent._sweep_command, agent._function, agent._in_jupyter = list(SWEEP["command"]), None, False
    agent._forward_signals, agent._run_processes = False, {}
    order = {
        "run_id": "abc123",
        "program": SWEEP["program"],
        "args": {name: {"value": value} for name, value in arguments.items()},
    }
    agent._command_run(order)
    assert agent._run_processes["abc123"].wait() == 0

    (run_dir,) = (tmp_path / "runs" / "sweep").iterdir()
    assert run_dir.name.endswith("-abc123")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert sum(names.VAL_LOSS in line for line in lines) == 1
    config = (run_dir / "config.toml").read_text()
    assert f"lr = {drawn['optimizer.lr']}" in config
    assert list((run_dir / "wandb").glob("offline-run-*-abc123/run-abc123.wandb"))


@pytest.mark.parametrize("name", sorted(SWEEP["parameters"]))
def test_values_survive_the_way_through_the_command_line(name):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    from transformerlm.cli.command import load_config, parse_arguments

    value = draw(random.Random(1), SWEEP["parameters"][name])
    words = create_sweep_command_args({"args": {name: {"value": value}}})["args"]
    config = load_config(TrainConfig, parse_arguments(words, {}))
    table, key = name.split(".")
    got = getattr(getattr(config, table), key)
    assert (list(got) if isinstance(got, tuple) else got) == value
