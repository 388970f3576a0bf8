import dataclasses

import numpy as np
import pytest

from tests.small_models import bytes_only
from transformerlm.checkpoint.run_directory import RunDirectory
from transformerlm.checkpoint.store import checkpoint_paths
from transformerlm.config import (
    GenerationConfig,
    ModelConfig,
    RuntimeConfig,
    ScheduleConfig,
    TrainConfig,
    TrainingConfig,
)
from transformerlm.data import TokenData, TokenFile, TokenWriter
from transformerlm.logging import NullLogger
from transformerlm.ngrams.index import FILE, NgramIndex
from transformerlm.nn import TransformerLM
from transformerlm.progress import SilentReporter
from transformerlm.runtime import prepare_process
from transformerlm.training.plan import Plan, make_plan, plan_lines, readable
from transformerlm.training.timers import FIRST_STEPS
from transformerlm.training.trainer import Trainer

CONFIG = TrainConfig(
    model=ModelConfig(vocab_size=64, context_length=16, d_model=16, num_layers=2, num_heads=2, d_ff=32),
    schedule=ScheduleConfig(warmup_steps=3),
    training=TrainingConfig(max_steps=400, batch_size=4, validate_every=0, checkpoint_every=0),
    runtime=RuntimeConfig(device="cpu", dtype="float32"),
)


def with_training(**values) -> TrainConfig:
    return dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, **values))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TokenData:
    folder = tmp_path_factory.mktemp("tokens")
    for name, size in (("train", 3200), ("val", 640)):
        with TokenWriter.create(folder / f"{name}.memmap", vocab_size=64, fingerprint="f") as writer:
            ids = np.random.default_rng(0).integers(0, 64, size).astype(np.uint16)
            writer.write(ids, num_documents=1, num_bytes=2 * size)
    return TokenData(TokenFile.open(folder / "train.memmap"), TokenFile.open(folder / "val.memmap"))


class QuarterSeconds:
    """A clock that goes on by a quarter of a second whenever it is read."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        self.seconds += 0.25
        return self.seconds


def plan(config, data, path) -> Plan:
    runtime = prepare_process(config.runtime)
    return make_plan(config, data, path / "runs" / "one", runtime, SilentReporter(), QuarterSeconds())


def test_a_plan_of_steps_says_how_long_they_take(data, tmp_path):
    found = plan(CONFIG, data, tmp_path)
    assert found.seconds_per_step == 0.25
    assert found.measured_steps == 12  # three seconds
    assert found.steps == 400
    # 400 steps, one validation of 640 tokens at a third of a step's 64 each, and a save of some kilobytes
    assert found.seconds == pytest.approx(100 + 0.25 * 10 / 3, abs=0.01)
    assert not list(tmp_path.iterdir())


def test_a_plan_of_a_time_says_how_many_steps_it_is(data, tmp_path):
    found = plan(with_training(max_steps=None, max_time="1h", validate_every=100), data, tmp_path)
    assert found.seconds == 3600
    validation = 0.25 * 10 / 3
    assert found.steps == pytest.approx((3600 - validation) / (0.25 + validation / 100), rel=0.01)


def test_samples_on_the_way_take_time(data, tmp_path):
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(CONFIG.model, vocab_size=256),
        generation=GenerationConfig(prompts=("The",), max_new_tokens=40, eos_token=""),
    )

    def seconds(sample_every, tokenizer):
        own = dataclasses.replace(
            config, training=dataclasses.replace(CONFIG.training, sample_every=sample_every)
        )
        runtime, clock = prepare_process(CONFIG.runtime), QuarterSeconds()
        parts = own, data, tmp_path, runtime, SilentReporter(), clock
        return make_plan(*parts, tokenizer=tokenizer).seconds

    without = seconds(None, bytes_only())
    assert seconds(4, None) == without  # nothing to try them with
    once = seconds(400, bytes_only()) - without
    assert 0 < once < seconds(4, bytes_only()) - without


def test_its_numbers_are_those_of_the_run(data, tmp_path):
    found = plan(CONFIG, data, tmp_path)
    trainer = Trainer(
        with_training(max_steps=4),
        data,
        RunDirectory(tmp_path / "run"),
        prepare_process(CONFIG.runtime),
        SilentReporter(),
    )
    trainer.train(NullLogger())
    (checkpoint,) = checkpoint_paths(tmp_path / "run" / "checkpoints")
    size = sum(path.stat().st_size for path in checkpoint.iterdir())
    assert found.checkpoint_bytes < size < found.checkpoint_bytes + 30_000
    assert found.memory.weights == sum(p.nbytes for p in trainer.model.parameters())
    assert found.token_bytes == data.train.path.stat().st_size + data.val.path.stat().st_size == 2 * 3840
    assert found.micro_batch_size == trainer.learner.micro_batches.size == 4


def rows_of(found: Plan) -> dict[str, str]:
    return {" ".join(line[:32].split()): line[32:] for line in plan_lines(found)}


def test_the_lines_are_for_people(data, tmp_path):
    found = plan(CONFIG, data, tmp_path)
    assert all(len(line) <= 100 for line in plan_lines(found))
    rows = rows_of(found)
    parameters = sum(p.numel() for p in TransformerLM(CONFIG.model).parameters())
    assert rows["model parameters"] == f"{parameters:,}"
    assert rows["trained on"] == "25,600, 8.00 passes"
    assert rows["per parameter"] == f"{25600 / parameters:.2g}"
    assert rows["step sequences"] == "4 of 16 tokens"
    assert rows["at a time"] == "4, in 1 pass"
    assert rows["memory weights"] == readable(4 * parameters)
    assert rows["disk token files"] == "7.68 kB"
    assert rows["checkpoints"].endswith("the best one included")
    assert rows["tokens per second"] == "256, over 12 steps"
    assert "TFLOP/s, both measured" in rows["of the ceiling"]
    assert rows["time steps"] == "400"
    assert rows["in all"] == "1m41s"


def test_the_size_of_the_memory_of_n_grams_is_told(data, tmp_path):
    NgramIndex.build([data.train.tokens], CONFIG.model.vocabulary_rows).save(tmp_path / "ngrams")
    size = (tmp_path / "ngrams" / FILE).stat().st_size
    told = rows_of(plan(with_training(ngram_memory=True), data, tmp_path))["memory of n-grams"]
    assert told == "25.6 kB"
    assert 25_600 <= size < 26_100
    hurried = with_training(ngram_memory=True, max_time="0.05s", max_steps=None)
    told = rows_of(plan(hurried, data, tmp_path))["memory of n-grams"]
    assert told.startswith("none: sorting 3,200 tokens")
    assert "memory of n-grams" not in rows_of(plan(CONFIG, data, tmp_path))


def test_what_does_not_fit_is_said(data, tmp_path):
    found = plan(CONFIG, data, tmp_path)
    little = dataclasses.replace(found, device_memory=1000)
    assert any(line.endswith(": more than there is") for line in plan_lines(little))
    assert not any("more than there is" in line for line in plan_lines(found))
    unknown = dataclasses.replace(found, device_memory=None)
    assert plan_lines(unknown)


def test_first_steps_are_not_measured(data, tmp_path):
    class SlowAtFirst(QuarterSeconds):
        calls = 0

        def __call__(self):
            self.calls += 1
            self.seconds += 100 if self.calls <= FIRST_STEPS else 0
            return super().__call__()

    runtime = prepare_process(CONFIG.runtime)
    found = make_plan(CONFIG, data, tmp_path, runtime, SilentReporter(), SlowAtFirst())
    assert found.seconds_per_step == 0.25


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (7_440_000, "7.44 MB"),
        (25.3e9, "25.3 GB"),
        (3e15, "3e+03 TB"),
    ],
)
def test_bytes_for_people(size, text):
    assert readable(size) == text
