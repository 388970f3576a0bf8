"""The memory of n-grams of a run: made before it trains, judged at its end, kept by a resumed one."""

import dataclasses
import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch

from tests.training.tiny_runs import Heard, changed
from transformerlm.config import (
    DataConfig,
    EvalConfig,
    EvalSection,
    GenerationConfig,
    ModelConfig,
    RuntimeConfig,
    ScheduleConfig,
    TokenizerConfig,
    TrainConfig,
    TrainingConfig,
)
from transformerlm.data import TokenFile
from transformerlm.errors import CheckpointError, ConfigError, OutputError
from transformerlm.evaluation.compare import evaluate
from transformerlm.evaluation.documents import load_for_scoring
from transformerlm.language_model import LanguageModel
from transformerlm.ngrams import NgramIndex
from transformerlm.ngrams.reference import probabilities_along
from transformerlm.training import ngrams, train
from transformerlm.training.pauses import Pauses
from transformerlm.training.timers import Clock

IN_FLOAT32 = RuntimeConfig(device="cpu", dtype="float32", num_threads=1)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remembered")
    (folder / "text").mkdir()
    for number in range(30):
        (folder / "text" / f"{number}.txt").write_text(f"The {number}. fox met a crow by the river.\n" * 5)
    return TrainConfig(
        data=DataConfig(corpus=str(folder / "text"), token_dir=str(folder / "tokens")),
        tokenizer=TokenizerConfig(vocab_size=280, tokenizer_dir=str(folder / "tokenizer")),
        model=ModelConfig(context_length=16, d_model=16, num_layers=1, num_heads=2, d_ff=32, vocab_size=300),
        schedule=ScheduleConfig(warmup_steps=2),
        training=TrainingConfig(
            run_dir=str(folder / "run"), max_steps=6, batch_size=4, validate_every=0, ngram_memory=True
        ),
        generation=GenerationConfig(prompts=("The ",), max_new_tokens=4),
        runtime=IN_FLOAT32,
    )


@pytest.fixture(scope="module")
def run(config):
    """A finished run, and what it said."""
    heard = Heard()
    return train(config, heard), heard.messages


def bits_of(messages):
    line = next(line for line in messages if line.startswith("with the memory of n-grams: "))
    return float(line.split()[5])


def test_the_end_tells_the_loss_of_the_mixture_which_is_that_of_the_definition(config, run):
    result, messages = run
    folder = result.run_dir.parent / "tokens"
    tokens, training = (TokenFile.open(folder / f"{name}.memmap") for name in ("val", "train"))
    lm = LanguageModel.load(result.run_dir, IN_FLOAT32)
    end = lm.tokenizer.special_token_ids["<|endoftext|>"]
    ids, known, own = tokens.tokens.tolist(), training.tokens.tolist(), []
    for first in range(0, len(ids) - 1, 16):
        window = ids[first : first + 17]
        with torch.no_grad():
            probabilities = lm.model(torch.tensor([window[:-1]]))[0].softmax(-1)
        own += [float(row[target]) for row, target in zip(probabilities, window[1:], strict=True)]
    ends = [0, *(place for place in range(1, len(ids) - 1) if ids[place] == end), len(ids) - 1]
    mixed = []
    for first, last in itertools.pairwise(ends):
        mixed += probabilities_along(known, ids[first : last + 1], own[first:last])
    nats = -np.log(mixed)
    expected = np.mean(nats) / math.log(2) * tokens.num_tokens / tokens.num_bytes
    assert bits_of(messages) == pytest.approx(expected, abs=6e-4)
    assert bits_of(messages) < result.best.evaluation.bits_per_byte
    history = [json.loads(line) for line in (result.run_dir / "history.jsonl").read_text().splitlines()]
    assert history[-1]["ngram_bits_per_byte"] == pytest.approx(expected, rel=1e-5)


def test_the_memory_is_used_where_text_is_scored_and_elsewhere_on_request(run):
    result, _ = run
    found = {}
    for wanted in ("auto", True, False):
        runtime = dataclasses.replace(IN_FLOAT32, ngram_memory=wanted)
        lm = LanguageModel.load(result.run_dir, runtime)
        assert (lm.ngrams is not None) == (wanted is True)
        section = EvalSection(checkpoint=str(result.run_dir))
        scores = evaluate(EvalConfig(eval=section, runtime=runtime, data=_data_of(result))).first.scores
        found[wanted] = scores.nats.sum()
    assert found["auto"] == found[True] < found[False]
    one_by_one = EvalSection(checkpoint=str(result.run_dir), batch_size=1)
    scores = evaluate(EvalConfig(eval=one_by_one, runtime=IN_FLOAT32, data=_data_of(result))).first.scores
    assert scores.nats.sum() == pytest.approx(found[True], rel=1e-6)
    compared = EvalSection(checkpoint=str(result.run_dir), compare_weights="bfloat16")
    of_weights = evaluate(EvalConfig(eval=compared, runtime=IN_FLOAT32, data=_data_of(result)))
    assert of_weights.first.scores.nats.sum() == pytest.approx(found[False], rel=1e-6)


def _data_of(result):
    from transformerlm.schema import from_toml

    return from_toml(TrainConfig, result.run_dir / "config.toml").data


def test_a_memory_that_was_not_kept_cannot_be_asked_for(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run[0].run_dir, copied)
    shutil.rmtree(copied / "ngrams")
    wanted = dataclasses.replace(IN_FLOAT32, ngram_memory=True)
    for load in (LanguageModel.load, load_for_scoring):
        with pytest.raises(ConfigError, match=r"\[runtime\].ngram_memory: expected a run that has kept one"):
            load(copied, wanted)
        assert load(copied, IN_FLOAT32).ngrams is None


def test_texts_are_written_with_it_on_request(run):
    result, _ = run
    plain, mixed = (
        LanguageModel.load(result.run_dir, dataclasses.replace(IN_FLOAT32, ngram_memory=wanted))
        for wanted in ("auto", True)
    )
    prompt = "The 3. fox met a crow by"
    assert mixed.generate(prompt, temperature=0.0, max_new_tokens=8).startswith(" the river.\n")
    assert plain.generate(prompt, temperature=0.0, max_new_tokens=8) != mixed.generate(
        prompt, temperature=0.0, max_new_tokens=8
    )


def test_a_resumed_run_uses_what_it_has_and_makes_what_is_damaged_again(config, run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run[0].run_dir, copied)
    index = copied / "ngrams" / "index.safetensors"
    made_at = index.stat().st_mtime_ns
    longer = changed(config, training={"run_dir": str(copied), "max_steps": 7})
    train(longer)
    assert index.stat().st_mtime_ns == made_at
    index.write_bytes(index.read_bytes()[:-1])
    heard = Heard()
    train(changed(config, training={"run_dir": str(copied), "max_steps": 8}), heard)
    assert any("ngrams: damaged" in line and line.endswith("; it is made again") for line in heard.messages)
    assert NgramIndex.read(copied / "ngrams").tokens.tolist() == _index(run).tokens.tolist()


def _index(run):
    return NgramIndex.read(run[0].run_dir / "ngrams")


def test_a_memory_of_other_rows_or_tokens_is_made_again(config, run, tmp_path):
    index = _index(run)
    for number, changes in enumerate(
        ({"vocab_size": 301}, {"made_from": "others"}, {"tokenizer": "another"})
    ):
        folder = tmp_path / str(number)
        dataclasses.replace(index, **changes).save(folder / "ngrams")
        train(changed(config, training={"run_dir": str(folder), "max_steps": 3}))
        runtime = dataclasses.replace(IN_FLOAT32, ngram_memory=True)
        assert LanguageModel.load(folder, runtime).ngrams.index.is_of(
            index.made_from, index.tokenizer, index.vocab_size
        )


def test_a_run_that_goes_on_without_it_keeps_none(config, run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run[0].run_dir, copied)
    heard = Heard()
    without = {"run_dir": str(copied), "max_steps": 7, "ngram_memory": False}
    train(changed(config, training=without), heard)
    assert not (copied / "ngrams").exists()
    told = f"{copied}/ngrams: removed, since the run keeps no memory of n-grams now"
    assert [line for line in heard.messages if "n-grams" in line] == [told]
    (copied / "ngrams").mkdir()  # what is not a memory is left alone
    (copied / "ngrams" / "notes.txt").write_text("mine")
    train(changed(config, training={**without, "max_steps": 8}), Heard())
    heard = Heard()
    train(changed(config, training={**without, "max_steps": 9, "ngram_memory": True}), heard)
    assert any("ngrams: expected nothing there, or a memory" in line for line in heard.messages)
    assert (copied / "ngrams" / "notes.txt").read_text() == "mine"


def test_what_fails_about_it_is_a_warning(config, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OutputError("no room")

    monkeypatch.setattr(NgramIndex, "save", fail)
    heard = Heard()
    assert train(changed(config, training={"run_dir": str(tmp_path / "a")}), heard).steps == 6
    what = f"warning: {tmp_path}/a/ngrams: the memory of n-grams is not kept: no room"
    assert what in heard.messages
    assert bits_of(heard.messages)
    monkeypatch.undo()
    monkeypatch.setattr(ngrams, "nats_of", fail)
    heard = Heard()
    assert train(changed(config, training={"run_dir": str(tmp_path / "b")}), heard).steps == 6
    assert "warning: the memory of n-grams is not judged: no room" in heard.messages


def test_time_for_sorting_and_for_the_end_is_held_back(config, tmp_path):
    assert ngrams.why_none(config, 2**24) is None
    assert ngrams.why_none(config, 2**24 + 1).startswith("the training text has 16,777,217 tokens")
    timed = changed(config, training={"max_steps": None, "max_time": "10s"})
    assert ngrams.why_none(timed, 400_000) is None
    assert ngrams.why_none(timed, 600_000) == "sorting 600,000 tokens may take 0.6 s of 10s"
    pauses = Pauses(timed, Clock(), 1000)
    pauses.validating_seconds, pauses.ending_seconds = 3.0, 0.5
    assert pauses.at(1.0)["ending"].seconds == 0.5
    pauses.validations_at_end = 2
    assert pauses.at(1.0)["ending"].seconds == 6.5


def test_the_memory_of_another_tokenizer_is_refused(config, run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run[0].run_dir, copied)
    dataclasses.replace(_index(run), tokenizer="another").save(copied / "ngrams")
    runtime = dataclasses.replace(IN_FLOAT32, ngram_memory=True)
    with pytest.raises(CheckpointError, match=r"ngrams: not the memory of .*; remove the folder"):
        LanguageModel.load(copied, runtime)
    assert LanguageModel.load(copied, dataclasses.replace(runtime, ngram_memory=False)).ngrams is None


def test_a_text_of_too_many_tokens_is_told_and_trained_without(config, tmp_path, monkeypatch):
    monkeypatch.setattr(ngrams, "MAX_TOKENS", 100)
    heard = Heard()
    train(changed(config, training={"run_dir": str(tmp_path / "run")}), heard)
    assert any(
        line.startswith("no memory of n-grams is kept: the training text has ") for line in heard.messages
    )
    assert not (tmp_path / "run" / "ngrams").exists()
