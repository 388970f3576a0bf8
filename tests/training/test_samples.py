"""Samples during training: the same bits, each step once, whatever stops the run."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.training.tiny_runs import Heard, Recorder
from transformerlm.checkpoint.store import checkpoint_paths, read_checkpoint
from transformerlm.config import (
    DataConfig,
    GenerationConfig,
    ModelConfig,
    RuntimeConfig,
    ScheduleConfig,
    TokenizerConfig,
    TrainConfig,
    TrainingConfig,
)
from transformerlm.data import TokenData, TokenFile, TokenWriter
from transformerlm.errors import NumericalError
from transformerlm.infer.generate import generate
from transformerlm.language_model import LanguageModel
from transformerlm.logging import names, read_samples
from transformerlm.training import samples, train
from transformerlm.training.learner import Learner
from transformerlm.training.prepare import with_start

PROMPTS = "The ", "A fox"
DUE = [2, 4, 6, 8]
EVERY = [(step, prompt) for step in (*DUE, 9) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled")
    (folder / "text").mkdir()
    for number in range(30):
        (folder / "text" / f"{number}.txt").write_text(f"The {number}. fox met a crow by the river.\n" * 9)
    return TrainConfig(
        data=DataConfig(corpus=str(folder / "text"), token_dir=str(folder / "tokens")),
        tokenizer=TokenizerConfig(vocab_size=280, tokenizer_dir=str(folder / "tokenizer")),
        model=ModelConfig(context_length=16, d_model=16, num_layers=1, num_heads=2, d_ff=32),
        schedule=ScheduleConfig(warmup_steps=2),
        training=TrainingConfig(
            run_dir=str(folder / "straight"),
            max_steps=9,
            batch_size=4,
            validate_every=0,
            checkpoint_every=3,
            keep_checkpoints=9,
            log_every=1,
            sample_every=2,
            dropout=0.1,  # random numbers in every step
        ),
        generation=GenerationConfig(prompts=PROMPTS, max_new_tokens=4),
        runtime=RuntimeConfig(device="cpu", dtype="float32", num_threads=1, seed=7),
    )


@pytest.fixture(scope="module")
def straight(config) -> tuple[Path, list[dict]]:
    """The folder of an undisturbed run, and what was logged."""
    recorder = Recorder()
    return train(config, loggers=[recorder]).run_dir, recorder.records


def into(config, run_dir, **training):
    changed = dataclasses.replace(config.training, run_dir=str(run_dir), **training)
    return dataclasses.replace(config, training=changed)


def texts_in(run_dir):
    return [(sample.step, sample.prompt, sample.text) for sample in read_samples(run_dir / "samples.jsonl")]


def losses_in(run_dir):
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [(record["step"], record[names.LOSS]) for record in records if names.LOSS in record]


def bits_in(run_dir):
    found = [read_checkpoint(path) for path in checkpoint_paths(run_dir / "checkpoints")]
    return {one.step: {name: member["sha256"] for name, member in one.members.items()} for one in found}


def test_each_step_that_is_due_has_its_samples_and_the_loggers_get_them(straight):
    run_dir, records = straight
    assert [(step, prompt) for step, prompt, _ in texts_in(run_dir)] == EVERY
    logged = [(r["step"], r[names.PROMPT], r[names.OUTPUT]) for r in records if names.PROMPT in r]
    assert logged == texts_in(run_dir)
    times = [sample.time for sample in read_samples(run_dir / "samples.jsonl")]
    assert times == sorted(times)
    assert times[0] > 0
    assert len({text for _, _, text in texts_in(run_dir)}) > len(PROMPTS)  # the model learns


def test_training_has_the_same_bits_with_and_without_samples(straight, config, tmp_path):
    run_dir = train(into(config, tmp_path / "without", sample_every=None)).run_dir
    assert bits_in(run_dir) == bits_in(straight[0])
    assert losses_in(run_dir) == losses_in(straight[0])
    assert texts_in(run_dir) == texts_in(straight[0])[-len(PROMPTS) :]


@pytest.mark.parametrize("stop", [3, 4])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(stop, straight, config, tmp_path):
    stopped = into(config, tmp_path / "run")
    assert train(stopped, loggers=[Recorder(signal_at=stop)]).was_stopped
    run_dir = train(stopped, loggers=[]).run_dir
    assert texts_in(run_dir) == texts_in(straight[0])
    assert bits_in(run_dir)[9] == bits_in(straight[0])[9]


def test_samples_after_the_checkpoint_that_a_run_goes_on_from_are_written_again(straight, config, tmp_path):
    killed = tmp_path / "run"
    shutil.copytree(straight[0], killed)
    for path in checkpoint_paths(killed / "checkpoints"):
        if read_checkpoint(path).step > 3:
            shutil.rmtree(path)
    with (killed / "samples.jsonl").open("ab") as file:
        file.write(b'{"step": 9, "prom')
    train(into(config, killed), loggers=[])
    assert texts_in(killed) == texts_in(straight[0])


def test_a_run_that_is_lengthened_keeps_what_it_wrote(straight, config, tmp_path):
    longer = tmp_path / "run"
    shutil.copytree(straight[0], longer)
    train(into(config, longer, max_steps=11), loggers=[])
    assert texts_in(longer)[: len(EVERY)] == texts_in(straight[0])
    steps = [step for step, _, _ in texts_in(longer)[len(EVERY) :]]
    assert steps == [10, 10, 11, 11]


def test_the_result_of_an_earlier_step_comes_last_and_once(config, tmp_path):
    """The learning rate rises until it ruins the model, which has then been better before."""
    ruined = into(config, tmp_path / "run", validate_every=2)
    optimizer = dataclasses.replace(config.optimizer, lr=10.0)
    ruined = dataclasses.replace(ruined, optimizer=optimizer, schedule=ScheduleConfig(warmup_steps=8))
    result = train(ruined, loggers=[])
    assert result.best.step < 9
    steps = [step for step, _, _ in texts_in(result.run_dir)]
    others = [step for step in DUE for _ in PROMPTS if step != result.best.step]
    assert steps == [*others, result.best.step, result.best.step]


def test_a_roll_back_leaves_no_step_twice_in_any_log(config, tmp_path, monkeypatch):
    from tests.logging.event_files import scalars, texts  # skips without tensorboard

    sound, calls = Learner.accumulate_gradients, []

    def accumulate_gradients(self, *arguments, **options):
        calls.append(1)
        loss, norms = sound(self, *arguments, **options)
        return (loss * float("nan") if len(calls) == 6 else loss), norms

    monkeypatch.setattr(Learner, "accumulate_gradients", accumulate_gradients)
    faulty = into(config, tmp_path / "run", on_nonfinite="rollback")
    logging = dataclasses.replace(config.logging, backend=("csv", "tensorboard"))
    heard = Heard()
    run_dir = train(dataclasses.replace(faulty, logging=logging), heard).run_dir
    assert any(message.startswith("back to step 3") for message in heard.messages)
    assert [(step, prompt) for step, prompt, _ in texts_in(run_dir)] == EVERY
    assert [step for step, _ in losses_in(run_dir)] == list(range(1, 10))
    rows = (run_dir / "metrics.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == [*range(1, 10), 9]  # the last one is validated
    assert scalars(run_dir / "tensorboard") == losses_in(run_dir)
    assert [step for step, _ in texts(run_dir / "tensorboard", "text/2")] == [2, 4, 6, 8, 9]


def test_samples_that_fail_are_a_warning(config, tmp_path, monkeypatch):
    sound = samples.complete

    def complete(model, *arguments, **options):
        if model.training:  # as it is between two steps; the result is written after the last one
            raise NumericalError("the logits are NaN")
        return sound(model, *arguments, **options)

    monkeypatch.setattr(samples, "complete", complete)
    heard = Heard()
    with pytest.raises(NumericalError):
        train(into(config, tmp_path / "run"), heard, [])
    warnings = [message for message in heard.messages if "no samples" in message]
    assert warnings == [
        f"warning: step {step}: no samples: the logits are NaN; training goes on" for step in DUE
    ]
    assert bits_in(tmp_path / "run").keys() >= {3, 6, 9}


@pytest.mark.parametrize(("num_documents", "start"), [(1, "\n"), (19, "\n"), (20, "")])
def test_texts_start_where_the_model_has_seen_beginnings(config, tmp_path, num_documents, start):
    with TokenWriter.create(tmp_path / "train.memmap", vocab_size=64, fingerprint="f") as writer:
        writer.write(np.zeros(64, np.uint16), num_documents=num_documents, num_bytes=64)
    data = TokenData(TokenFile.open(tmp_path / "train.memmap"), None)
    assert with_start(config, data).generation.start == start
    chosen = dataclasses.replace(config, generation=dataclasses.replace(config.generation, start="Once"))
    assert with_start(chosen, data) == chosen
    unmarked = dataclasses.replace(config, data=dataclasses.replace(config.data, document_separator=""))
    assert with_start(unmarked, data).generation.start == "\n"


def test_a_run_on_one_document_writes_from_a_line_break_wherever_it_is_used(config, tmp_path):
    (tmp_path / "one.txt").write_text("The fox met a crow by the river.\n" * 300)
    config = dataclasses.replace(
        into(config, tmp_path / "run", sample_every=0),
        data=DataConfig(corpus=str(tmp_path / "one.txt"), token_dir=str(tmp_path / "tokens")),
        tokenizer=TokenizerConfig(vocab_size=280, tokenizer_dir=str(tmp_path / "tokenizer")),
        generation=GenerationConfig(prompts=("",), max_new_tokens=4, temperature=0),
    )
    run_dir = train(config, loggers=[]).run_dir
    lm = LanguageModel.load(run_dir, RuntimeConfig(device="cpu", dtype="float32"))
    assert lm.generation.start == "\n"
    (after_line_break,) = lm.complete("\n")
    (found,) = lm.complete("")
    assert found.token_ids == after_line_break.token_ids
    assert texts_in(run_dir)[-1][1:] == ("", found.text)
    (ended,) = lm.complete("", start="")
    end = lm.tokenizer.special_token_ids["<|endoftext|>"]
    assert ended.token_ids == tuple(generate(lm.model, [end], max_new_tokens=4, temperature=0))
