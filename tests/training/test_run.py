"""A whole run from Python: `from transformerlm.training import train`."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.training.tiny_runs import Heard, Recorder
from transformerlm import LanguageModel
from transformerlm.config import (
    DataConfig,
    GenerationConfig,
    ModelConfig,
    OptimizerConfig,
    RuntimeConfig,
    ScheduleConfig,
    TokenizerConfig,
    TrainConfig,
    TrainingConfig,
)
from transformerlm.errors import CheckpointError, ConfigError, NumericalError
from transformerlm.logging import names
from transformerlm.report import figures
from transformerlm.report.marks import marks
from transformerlm.report.run import read_run
from transformerlm.schema import from_toml
from transformerlm.training import plan_run, train, verify_run


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "text").mkdir()
    for number in range(30):
        (folder / "text" / f"{number}.txt").write_text(f"The {number}. fox met a crow by the river.\n" * 9)
    return TrainConfig(
        data=DataConfig(corpus=str(folder / "text"), token_dir=str(folder / "tokens")),
        tokenizer=TokenizerConfig(vocab_size=280, tokenizer_dir=str(folder / "tokenizer")),
        model=ModelConfig(context_length=16, d_model=16, num_layers=1, num_heads=2, d_ff=32),
        schedule=ScheduleConfig(warmup_steps=2),
        training=TrainingConfig(
            run_dir=str(folder / "run"), max_steps=6, batch_size=4, validate_every=3, log_every=1
        ),
        generation=GenerationConfig(prompts=("The ",), max_new_tokens=4),
        # What is measured, such as attention, may be chosen otherwise in the next run, with other bits.
        runtime=RuntimeConfig(
            device="cpu", dtype="float32", attention="kernels", num_threads=1, deterministic=True, seed=7
        ),
    )


@pytest.fixture(scope="module")
def finished(config):
    """A run's result, what it has logged and said, and the process before and after it."""
    logger, heard, before = Recorder(), Heard(), process()
    return train(config, heard, [logger]), logger.records, heard.messages, before, process()


def process():
    """What a run might change in the process around it."""
    return {
        "threads": torch.get_num_threads(),
        "random state": torch.get_rng_state().tolist(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "default dtype": torch.get_default_dtype(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        # PyTorch's compiler sets one when it is first imported.
        "environment": {k: v for k, v in os.environ.items() if not k.startswith("TORCHINDUCTOR_")},
        "folder": os.getcwd(),  # noqa: PTH109
        "grad": torch.is_grad_enabled(),
    }


def test_the_result_says_what_came_of_the_run(finished, config):
    result, records, messages, _, _ = finished
    assert (str(result.run_dir), result.steps) == (config.training.run_dir, 6)
    assert (result.was_stopped, result.exit_status) == (False, 0)
    validated = {r["step"]: r[names.VAL_LOSS] for r in records if names.VAL_LOSS in r}
    assert list(validated) == [3, 6]
    assert (result.last.step, result.last.evaluation.loss) == (6, validated[6])
    assert result.best.evaluation.loss == min(validated.values())
    assert [r["step"] for r in records if names.LOSS in r] == [1, 2, 3, 4, 5, 6]
    assert [r[names.PROMPT] for r in records if names.OUTPUT in r] == ["The "]
    assert any(line.startswith("validation: ") for line in messages)
    kept = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in kept if names.LOSS in r] == [1, 2, 3, 4, 5, 6]


def test_the_process_is_as_it_was(finished):
    *_, before, after = finished
    assert after == before


def test_a_signal_ends_it_and_the_same_call_goes_on_to_the_same_bits(finished, config, tmp_path):
    config = changed(config, run_dir=str(tmp_path / "run"))
    before = process()
    stopped = train(config, loggers=[Recorder(signal_at=4)])
    assert (stopped.steps, stopped.stop_signal, stopped.exit_status) == (4, signal.SIGTERM, 143)
    assert process() == before
    result = train(config, loggers=[])
    assert (result.steps, result.was_stopped) == (6, False)
    assert result.last == finished[0].last


def test_a_run_that_is_named_after_its_start_says_with_which_name_it_goes_on(config, tmp_path):
    heard, config = Heard(), changed(config, run_dir=str(tmp_path / "{run_name}"))
    for resume in (lambda config: changed(config, resume="must"), lambda config: verify_run(config, 2)):
        with pytest.raises(ConfigError, match=r"\[logging\]\.run_name: expected the name of a run"):
            resume(config)
    never = changed(config, run_dir=str(tmp_path / "other" / "{run_name}"), resume="never")
    stopped = train(never, heard, loggers=[Recorder(signal_at=2)])
    options = f"--logging.run_name={stopped.run_dir.name} --training.resume=auto"
    assert heard.messages[-1] == f"stopped after step 2; the same command with {options} goes on from there"

    stopped = train(config, heard, loggers=[Recorder(signal_at=4)])
    name = stopped.run_dir.name
    command = f"the same command with --logging.run_name={name}"
    assert f"the run is named {name}; if it is stopped, {command} goes on" in heard.messages
    assert heard.messages[-1] == f"stopped after step 4; {command} goes on from there"

    heard = Heard()
    named = dataclasses.replace(config, logging=dataclasses.replace(config.logging, run_name=name))
    assert from_toml(TrainConfig, stopped.run_dir / "config.toml").logging.run_name == name
    assert train(named, heard, loggers=[]).run_dir == stopped.run_dir
    assert not [line for line in heard.messages if "changed since" in line or "is named" in line]


def changed(config, **values):
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **values))


def with_high_lr(config, folder, name="cosine", warmup_steps=2, **training):
    """A config with which the model becomes worse after some steps."""
    return dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, lr=1.0),
        schedule=ScheduleConfig(name=name, warmup_steps=warmup_steps),
        training=dataclasses.replace(config.training, run_dir=str(folder), **training),
    )


def test_samples_and_last_words_are_those_of_the_best_checkpoint(finished, config, tmp_path):
    heard, logger = Heard(), Recorder()
    values = {"warmup_steps": 11, "max_steps": 12, "validate_every": 2}
    result = train(with_high_lr(config, tmp_path / "run", **values), heard, [logger])
    best, last = result.best, result.last
    assert best.step < last.step == 12
    numbers = f"{last.evaluation.bits_per_byte:.3f} bits per byte on the validation text"
    assert f"step {best.step} is the best: the last one, 12, has {numbers}" in heard.messages
    bits = f"validation: {best.evaluation.bits_per_byte:.3f} bits per byte "
    assert [line for line in heard.messages if line.startswith(bits)]

    lm = LanguageModel.load(result.run_dir)
    assert lm.checkpoint.step == best.step
    (sample,) = [json.loads(line) for line in (result.run_dir / "samples.jsonl").read_text().splitlines()]
    assert sample["step"] == best.step
    text = lm.complete(config.generation.prompts, max_new_tokens=4, seed=7)[0].text
    assert sample[names.OUTPUT] == text
    newest = sorted((result.run_dir / "checkpoints").iterdir())[-1]
    assert LanguageModel.load(newest).checkpoint.step == 12

    # All of it is there: nothing is done again, and a larger budget goes on from the newest.
    again = Recorder()
    train(with_high_lr(config, tmp_path / "run", **values), loggers=[again])
    assert again.records == []
    more = Recorder()
    train(with_high_lr(config, tmp_path / "run", **(values | {"max_steps": 14})), loggers=[more])
    assert [r["step"] for r in more.records if names.LOSS in r] == [13, 14]


def test_what_has_ended_a_run_before_its_time_is_said(finished, config, tmp_path):
    heard = Heard()
    own = changed(config, run_dir=str(tmp_path / "passes"), max_steps=None, max_time="1h", max_passes=0.1)
    result = train(own, heard, loggers=[])
    pattern = rf"trained: {result.steps} steps in \d+s of 1h"
    assert [line for line in heard.messages if re.fullmatch(pattern, line)]
    used_up = [line for line in heard.messages if line.startswith("the text is used up: 0.0")]
    assert used_up[0].endswith(" passes; more time would not help, more text would")
    heard = Heard()
    assert train(own, heard, loggers=[]).steps == result.steps
    assert "a larger [training].max_passes trains on" in heard.messages[-2]

    heard = Heard()
    early = with_high_lr(config, tmp_path / "early", "wsd", max_steps=200, validate_every=2, patience=2)
    result = train(early, heard, loggers=[])
    assert result.steps < 200
    (line,) = [line for line in heard.messages if line.startswith("ended early: ")]
    assert line.endswith(f"to {result.steps}; the best validation is that of step {result.best.step}")


def test_the_time_of_a_run_counts_from_the_start_of_its_command(finished, config, tmp_path):
    own = changed(config, run_dir=str(tmp_path / "run"), max_steps=None, max_time="100h", validate_every=0)
    started = time.perf_counter() - 100 * 3600 - 1
    assert train(own, loggers=[], started=started).steps == 1


def test_a_plan_and_a_proof(finished, config):
    before = process()
    assert "tokens per second" in str(plan_run(config))
    heard = Heard()
    verify_run(changed(config, max_steps=8), 2, heard)
    assert "the same bits of weights, optimizer" in heard.messages[-1]
    assert process() == before


def test_errors_leave_the_process_as_it_was_too(finished, config):
    before = process()
    with pytest.raises(ConfigError, match=r"\[model\]\.context_length: expected at most"):
        train(dataclasses.replace(config, model=dataclasses.replace(config.model, context_length=10**6)))
    assert process() == before


def test_a_start_that_is_refused_leaves_nothing_that_a_longer_text_meets(config, tmp_path):
    """The text is found to be too short for the context; the same call trains on it once it is longer."""
    path = tmp_path / "text.txt"
    path.write_text("The fox met a crow. " * 4)
    own = dataclasses.replace(
        config,
        data=DataConfig(corpus=str(path), token_dir=str(tmp_path / "made")),
        tokenizer=TokenizerConfig(vocab_size=280, tokenizer_dir=str(tmp_path / "made" / "tokenizer")),
        model=dataclasses.replace(config.model, context_length=64),
        training=dataclasses.replace(config.training, run_dir=str(tmp_path / "run"), max_steps=3),
    )
    with pytest.raises(ConfigError, match=r"context_length: expected at most \d+, for the \d+ tokens"):
        train(own)
    assert [path.name for path in (tmp_path / "made").iterdir()] == [".lock"]
    path.write_text("The fox met a crow by the river. " * 99)
    assert train(own).steps == 3
    # What was there before, and may have cost hours, stays.
    before = sorted((tmp_path / "made").rglob("*"))
    longer = dataclasses.replace(own, model=dataclasses.replace(config.model, context_length=10**5))
    with pytest.raises(ConfigError, match="context_length"):
        train(longer)
    assert sorted((tmp_path / "made").rglob("*")) == before


def test_importing_it_imports_nothing_heavy():
    script = "import sys\nfrom transformerlm.training import train\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "numpy", "wandb", "regex", "tqdm"}


def test_an_error_that_ends_a_run_is_on_its_page(config, tmp_path):
    broken = dataclasses.replace(
        config,
        optimizer=OptimizerConfig(lr=1e30),
        training=dataclasses.replace(config.training, run_dir=str(tmp_path / "run")),
    )
    with pytest.raises(NumericalError):
        train(broken)
    run = read_run(tmp_path / "run")
    assert run.history[-1]["event"] == "error"
    assert figures.state(run).startswith("ended by an error after ")
    (mark,) = (mark for mark in marks(run) if mark.kind == "error")
    assert "not finite" in mark.text
    assert "ended by an error after" in (tmp_path / "run/report.html").read_text()


def test_a_start_that_is_refused_leaves_the_run_as_it_was(config, finished):
    run_dir = finished[0].run_dir
    before = (run_dir / "history.jsonl").read_bytes()
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, d_model=32))
    with pytest.raises(CheckpointError):
        train(other)
    assert (run_dir / "history.jsonl").read_bytes() == before
