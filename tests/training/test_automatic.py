"""A run whose config is chosen: from a text and a time alone, then continued."""

import dataclasses
import random
import time

import pytest
import torch

from tests.tiny_run import shorten_measurements
from tests.training.tiny_runs import Heard
from transformerlm import training
from transformerlm.config import TrainConfig
from transformerlm.config.automatic import with_automatic
from transformerlm.distributed.ranks import SINGLE_PROCESS
from transformerlm.errors import DataError
from transformerlm.progress import SilentReporter
from transformerlm.recipe import pilot, survey
from transformerlm.recipe.text import VOCABULARIES
from transformerlm.schema import from_dict, from_toml
from transformerlm.training import plan_run, train
from transformerlm.training.automatic import as_begun
from transformerlm.training.expectation import Expectation


def a_text(num_words: int, seed: int = 0) -> str:
    rng = random.Random(seed)
    words = ["".join(rng.choices("aeinorst", k=rng.randint(2, 7))) for _ in range(60)]
    return " ".join(rng.choices(words, k=num_words))


def automatic(folder, max_time="6s", **tables) -> TrainConfig:
    given = {
        "data": {"corpus": str(folder / "text.txt")},
        "training": {"max_time": max_time, "run_dir": str(folder / "run")},
        "generation": {"max_new_tokens": 2},
        "runtime": {"device": "cpu", "dtype": "float32", "num_threads": 1},
    }
    return from_dict(TrainConfig, with_automatic({**given, **tables}))


@pytest.fixture(scope="module", autouse=True)
def short_measurements():
    with pytest.MonkeyPatch.context() as patch:
        shorten_measurements(patch)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("automatic")
    (folder / "text.txt").write_text(a_text(6000))
    return folder


@pytest.fixture(scope="module")
def finished(folder):
    """The messages and the result of a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        heard = Heard()
        return heard.messages, train(automatic(folder), heard, [])


def test_a_text_and_a_time_are_enough(folder, finished):
    messages, result = finished
    config = from_toml(TrainConfig, folder / "run" / "config.toml")
    assert not config.automatic()
    assert config.data.token_dir == f"data/{{corpus}}/{config.tokenizer.vocab_size}-ids"
    assert (folder / "data" / "text" / f"{config.tokenizer.vocab_size}-ids" / "train.memmap").exists()
    assert result.steps >= 1
    expected = Expectation.read(folder / "run")
    assert expected.low < expected.bits_per_byte < expected.high
    assert any(line.startswith("expected  ") and f"{expected.bits_per_byte:.2f}" in line for line in messages)
    got = f"got {result.best.evaluation.bits_per_byte:.3f}"
    assert any(line.startswith("expected: ") and got in line for line in messages)


def test_more_time_goes_on_with_the_same_model(folder, finished, monkeypatch):
    monkeypatch.chdir(folder)
    before = from_toml(TrainConfig, folder / "run" / "config.toml")
    longer = as_begun(automatic(folder, max_time="3h"), folder / "run", SINGLE_PROCESS)
    assert longer.training.max_time == "3h"
    assert not longer.automatic()
    for table in ("tokenizer", "data", "optimizer", "schedule"):
        assert getattr(longer, table) == getattr(before, table)
    # The vocabulary of the model is filled in from the tokenizer when the run goes on.
    assert dataclasses.replace(longer.model, vocab_size=before.model.vocab_size) == before.model


def test_another_run_of_the_same_text_uses_a_tokenizer_in_the_usual_place(folder, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(a_text(3000))
    monkeypatch.chdir(tmp_path)
    heard = Heard()
    tokenizer = {"vocab_size": 300, "tokenizer_dir": "data/text/tokenizer"}
    plan_run(automatic(tmp_path, tokenizer=tokenizer), heard)
    plan = plan_run(automatic(tmp_path), heard)
    assert plan.config.tokenizer.vocab_size == plan.config.model.vocab_size == 300
    assert plan.config.data.token_dir == "data/{corpus}"
    assert sum(line.startswith("expected") for line in heard.messages) == 2


def test_a_model_that_is_set_gets_all_else(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(a_text(3000))
    monkeypatch.chdir(tmp_path)
    model = {"d_model": 32, "num_layers": 1, "num_heads": 2, "d_ff": 64, "context_length": 16}
    runtime = {"device": "cpu", "num_threads": torch.get_num_threads()}
    config = automatic(tmp_path, model=model, runtime=runtime)
    found = plan_run(config, SilentReporter(), owns_process=True).config
    assert {name: getattr(found.model, name) for name in model} == model
    assert not found.automatic()


def test_the_model_that_is_chosen_is_measured_itself(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(a_text(3000))
    monkeypatch.chdir(tmp_path)
    measured = []

    def slow(model, optimizer, runtime, backend, tokens, prepare, *, is_typical):
        measured.append((model, tokens))
        return 10.0

    monkeypatch.setattr(training.automatic, "step_seconds", slow)
    model = {"d_model": 32, "num_layers": 2, "context_length": 32}
    training_ = {"max_time": "6s", "batch_size": 3, "run_dir": str(tmp_path / "run")}
    config = automatic(tmp_path, model=model, tokenizer={"vocab_size": 300}, training=training_)
    parts = config, tmp_path / "run", SilentReporter(), SINGLE_PROCESS, time.perf_counter()
    choice = training.automatic.prepare_automatic(*parts, owns_process=False).choice
    assert [(one.d_model, one.num_layers, tokens) for one, tokens in measured] == [(32, 2, 3 * 32)]
    assert choice.chosen.tokens_per_second == pytest.approx(9.6)


def test_a_run_that_will_end_early_leaves_its_time_to_the_pilot(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training.automatic, "PILOT_SHARE", 0.0)
    monkeypatch.setattr(pilot, "MAX_STEPS", 110)
    read = []
    for max_passes in (0.5, 1e9):
        config = automatic(folder, training={"max_time": "20s", "max_passes": max_passes})
        dial = training.automatic.Dial.of(config, 1, time.perf_counter(), owns_process=False)
        read.append(dial.facts.pilot.read_bytes)  # an id is a byte: the text has no merges for 1,024
    length = pilot.SHAPE.context_length
    assert read == [16 * 110 * length, 4 * pilot.MIN_STEPS * length]


def test_a_plan_tells_the_steps_that_it_has_measured_and_no_others(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(a_text(3000))
    monkeypatch.chdir(tmp_path)
    heard = Heard()
    plan_run(automatic(tmp_path), heard)
    table = [line for line in heard.messages if line.startswith(("speed", "chosen", "expected", "    "))]
    assert any("parameters" in line for line in table)
    assert not any("tokens per second" in line or "steps" in line for line in table)


def test_too_little_text_or_time_is_told_with_what_would_be_enough(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(a_text(400))
    monkeypatch.chdir(tmp_path)
    heard = Heard()
    plan_run(automatic(tmp_path), heard)
    assert any("too little text" in line and "would be enough" in line for line in heard.messages)


def test_no_text_is_an_error_as_ever(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(" \n ")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="white space"):
        train(automatic(tmp_path), SilentReporter(), [])


def test_facts_of_a_text(folder):
    config = automatic(folder)
    facts = survey(config.data, config.tokenizer).facts
    size = (folder / "text.txt").stat().st_size
    assert facts.train_bytes + facts.validation_bytes == pytest.approx(size, rel=0.01)
    assert 1 < facts.ngram_bits < 3  # eight letters and the space, in sixty words
    assert facts.bytes_per_token[257] == 1
    tried = list(facts.bytes_per_token)
    assert tried == [size for size in VOCABULARIES if size in tried]
    assert list(facts.bytes_per_token.values()) == sorted(facts.bytes_per_token.values())


def test_a_mixture_is_chosen_for_like_one_text(folder, tmp_path):
    (tmp_path / "other.txt").write_text(a_text(2000, seed=1))
    paths = {str(folder / "text.txt"): 2, str(tmp_path / "other.txt"): 1}
    parts = [{"path": path, "weight": weight} for path, weight in paths.items()]
    tables = {
        "data": {"mixture": parts, "token_dir": str(tmp_path / "tokens")},
        "tokenizer": {"tokenizer_dir": str(tmp_path / "tokenizer"), "vocab_size": 257},
    }
    config = automatic(tmp_path, max_time="2s", **tables)
    heard = Heard()
    result = train(config, heard, [])
    assert result.steps > 0
    assert any(line.startswith("mixture: 66.7 % text") for line in heard.messages)
    own = from_toml(TrainConfig, tmp_path / "run/config.toml")
    assert not own.automatic()
    assert own.model.context_length * 4 < (tmp_path / "other.txt").stat().st_size
    assert train(config, heard, []).steps == result.steps
