"""Runs of a tiny model on a thousand tokens, and what they leave."""

import dataclasses
import json
import os
import signal
import time

import numpy as np
import torch

from transformerlm.checkpoint.run_directory import RunDirectory
from transformerlm.config import (
    ModelConfig,
    OptimizerConfig,
    RuntimeConfig,
    ScheduleConfig,
    TrainConfig,
    TrainingConfig,
)
from transformerlm.data import TokenData, TokenFile, TokenWriter
from transformerlm.logging import CombinedLogger, MetricsFile, NullLogger, names
from transformerlm.progress import SilentReporter
from transformerlm.runtime import Runtime
from transformerlm.training.trainer import Trainer

MODEL = ModelConfig(vocab_size=64, context_length=16, d_model=16, num_layers=2, num_heads=2, d_ff=32)
CONFIG = TrainConfig(
    model=MODEL,
    optimizer=OptimizerConfig(lr=1e-2),
    schedule=ScheduleConfig(warmup_steps=3),
    training=TrainingConfig(
        max_steps=12, batch_size=4, validate_every=5, checkpoint_every=4, keep_checkpoints=9, log_every=1
    ),
    runtime=RuntimeConfig(device="cpu", dtype="float32"),
)


def changed(config: TrainConfig, **tables) -> TrainConfig:
    """`changed(config, training={"max_steps": 5})`."""
    parts = {name: dataclasses.replace(getattr(config, name), **values) for name, values in tables.items()}
    return dataclasses.replace(config, **parts)


class Heard(SilentReporter):
    def __init__(self):
        self.messages = []

    def say(self, message):
        self.messages.append(message)


def write_tokens(folder) -> TokenData:
    """1,000 tokens to train on and 200 to validate on: there is something to learn in them."""
    generator = np.random.default_rng(0)
    for name, size in (("train", 1000), ("val", 200)):
        with TokenWriter.create(folder / f"{name}.memmap", vocab_size=64, fingerprint="f") as writer:
            ids = np.cumsum(generator.integers(1, 3, size)) % 64  # one or two above the one before
            writer.write(ids.astype(np.uint16), num_documents=1, num_bytes=2 * size)
    return TokenData(TokenFile.open(folder / "train.memmap"), TokenFile.open(folder / "val.memmap"))


def make(config, data, path, reporter=None, now=time.perf_counter) -> Trainer:
    reporter = reporter or SilentReporter()
    run = RunDirectory(path)
    found = run.resume_point(config.training.resume, reporter)
    torch.manual_seed(config.runtime.seed)
    trainer = Trainer(config, data, run, Runtime.from_config(config.runtime), reporter, now)
    if found:
        trainer.restore(found)
    return trainer


def run(config, data, path, reporter=None, signal_at=None) -> Trainer:
    return finish(make(config, data, path, reporter), path, signal_at)


def finish(trainer, path, signal_at=None) -> Trainer:
    metrics = MetricsFile(path / "metrics.jsonl")
    metrics.truncate_after(trainer.step)
    with CombinedLogger([metrics, signal_at or NullLogger()]) as logger:
        trainer.status = trainer.train(logger)
    return trainer


def records(path, key=None) -> list[dict]:
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [record for record in found if key is None or key in record]


def without_speed(found: list[dict]) -> list[dict]:
    measured = (names.TOKENS_PER_SECOND, names.MFU, names.DATA_WAIT_FRACTION, names.SECONDS_REMAINING)
    return [{k: v for k, v in r.items() if k not in measured} for r in found]


def assert_same_weights(left: Trainer, right: Trainer):
    other = right.model.state_dict()
    for name, value in left.model.state_dict().items():
        assert torch.equal(value, other[name]), name


class Recorder(NullLogger):
    """Keeps what is logged; sends this process a signal when a step is."""

    def __init__(self, signal_at=None):
        self.records, self.signal_at = [], signal_at

    def log(self, values, step=None):
        self.records.append({"step": step, **values})
        if step == self.signal_at:
            self.signal_at = None
            os.kill(os.getpid(), signal.SIGTERM)


class SignalAt(NullLogger):
    """Sends this process a signal when a step is logged: in the middle of what follows the step."""

    def __init__(self, step: int, number: int = signal.SIGTERM):
        self.step, self.number = step, number

    def log(self, values, step=None):
        if step == self.step:
            self.step = -1
            os.kill(os.getpid(), self.number)
