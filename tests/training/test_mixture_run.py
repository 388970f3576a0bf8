"""Whole runs on several corpora."""

import dataclasses
import json
import math

import pytest

from tests.mixtures import NAMES, data_config, mixture, write_corpora
from tests.training.tiny_runs import Heard, Recorder
from transformerlm.checkpoint.store import read_checkpoint
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
from transformerlm.config.logging import TrainLoggingConfig
from transformerlm.data import TokenData, validation_windows
from transformerlm.errors import CheckpointError, ConfigError
from transformerlm.evaluation import compare
from transformerlm.evaluation.loss import evaluate
from transformerlm.evaluation.text import Text
from transformerlm.language_model import LanguageModel
from transformerlm.logging import names
from transformerlm.nn import NextTokenLoss
from transformerlm.report import figures, report_html
from transformerlm.report.run import read_run
from transformerlm.schema import from_toml
from transformerlm.training import plan as plan_module
from transformerlm.training import plan_run, train, verify_run

SHARES = {"books": {"weight": 0.5}, "notes": {"weight": 0.3}, "tale": {"weight": 0.2}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    write_corpora(folder)
    return folder


def config_of(folder, run="run", shares=SHARES, **training) -> TrainConfig:
    values = {"max_steps": 20, "validate_every": 10, "log_every": 1, "checkpoint_every": 5, **training}
    return TrainConfig(
        data=data_config(folder, **shares),
        tokenizer=TokenizerConfig(vocab_size=300, tokenizer_dir=str(folder / "tokenizer")),
        model=ModelConfig(context_length=16, d_model=16, num_layers=1, num_heads=2, d_ff=32),
        schedule=ScheduleConfig(warmup_steps=2),
        training=TrainingConfig(run_dir=str(folder / run), batch_size=4, keep_checkpoints=9, **values),
        generation=GenerationConfig(prompts=("The ",), max_new_tokens=4),
        runtime=RuntimeConfig(device="cpu", dtype="float32", num_threads=1, deterministic=True, seed=7),
        logging=TrainLoggingConfig(report=False),
    )


def quietly(config, reporter=None, loggers=()):
    return train(config, reporter, loggers)


@pytest.fixture(scope="module")
def finished(folder):
    logger, heard = Recorder(), Heard()
    return quietly(config_of(folder), heard, [logger]), logger.records, heard.messages


def last(records, key):
    return [record for record in records if key in record][-1]


def test_what_was_drawn_of_each_corpus_is_logged(finished):
    _, records, heard = finished
    record = last(records, names.TOKENS)
    drawn = {name: record[names.of_corpus(names.TOKENS, name)] for name in NAMES}
    assert sum(drawn.values()) == record[names.TOKENS] == 20 * 64
    assert drawn == {"books": 640, "notes": 384, "tale": 256}
    assert any(line.startswith("mixture: 50 % books (") for line in heard)


def test_validation_is_that_of_text_as_it_is_drawn(folder, finished):
    """Each corpus alone, with the model itself; then mean loss over mean bytes."""
    result, records, _ = finished
    lm, found = LanguageModel.load(result.run_dir), {}
    data = TokenData.open(config_of(folder).data, folder / "data")
    for name, file in data.val.files.items():
        batches = validation_windows(file.tokens, 16, 4)
        ratio = file.num_tokens / file.num_bytes
        found[name] = evaluate(NextTokenLoss(lm.model), batches, lm.runtime, ratio), 1 / ratio
    record = last(records, names.VAL_LOSS)
    for name, (own, _) in found.items():
        key = names.of_corpus(names.VAL_BITS_PER_BYTE, name)
        assert record[key] == pytest.approx(own.bits_per_byte, rel=1e-5)
    loss = sum(SHARES[name]["weight"] * own.loss for name, (own, _) in found.items())
    num_bytes = sum(SHARES[name]["weight"] * size for name, (_, size) in found.items())
    assert record[names.VAL_LOSS] == pytest.approx(loss, rel=1e-5)
    assert record[names.VAL_BITS_PER_BYTE] == pytest.approx(loss / math.log(2) / num_bytes, rel=1e-5)
    assert result.last.evaluation.bits_per_byte == record[names.VAL_BITS_PER_BYTE]


def members(folder, run, step=20):
    return read_checkpoint(folder / run / "checkpoints" / f"step_{step:08}").members


def test_a_stopped_run_goes_on_to_the_same_bits(folder, finished):
    config = config_of(folder, "stopped")
    assert quietly(config, loggers=[Recorder(signal_at=7)]).was_stopped
    quietly(config)
    assert members(folder, "stopped") == members(folder, "run")
    heard = Heard()
    verify_run(config, 4, heard)
    assert "the same bits" in heard.messages[-1]


def test_more_steps_go_on_with_the_same_weights(folder, finished):
    quietly(config_of(folder, "longer", max_steps=10))
    assert quietly(config_of(folder, "longer", max_steps=15)).steps == 15


@pytest.mark.parametrize(
    ("shares", "what"),
    [
        ({**SHARES, "tale": {"weight": 0.3}}, "[mixture].tale: 0.2 -> "),
        ({"books": {"weight": 1}, "notes": {"weight": 1}}, "train data of tale: "),
    ],
)
def test_another_mixture_is_another_run(shares, what, folder, finished):
    with pytest.raises(CheckpointError) as caught:
        quietly(config_of(folder, shares=shares))
    assert any(what in line for line in caught.value.lines)
    assert any("choose another [training].run_dir" in line for line in caught.value.lines)


def test_passes_beside_weights_come_to_as_many(folder):
    shares = {"books": {"weight": 1}, "notes": {"passes": 0.5}}
    result = quietly(config_of(folder, "passes", shares))
    run = read_run(result.run_dir)
    drawn = run.metrics[names.of_corpus(names.TOKENS, "notes")].values[-1]
    size = run.mixture[1].text.tokens
    assert abs(drawn - 0.5 * size) <= 16  # one sequence
    with pytest.raises(CheckpointError, match="mixture"):
        quietly(config_of(folder, "passes", shares, max_steps=30))


def test_passes_alone_end_the_run(folder):
    shares = {"books": {"passes": 0.2}, "tale": {"passes": 1.5}}
    heard = Heard()
    result = quietly(config_of(folder, "ended", shares, max_steps=None, max_time="10m"), heard)
    data = TokenData.open(data_config(folder, **shares), folder / "data")
    tokens = 0.2 * data.train.files["books"].num_tokens + 1.5 * data.train.files["tale"].num_tokens
    assert result.steps == int(tokens / 64)
    assert any("the text is used up" in line for line in heard.messages)
    assert quietly(config_of(folder, "ended", shares, max_steps=None, max_time="10m")).steps == result.steps


def test_a_mixture_of_one_corpus_is_that_corpus(folder):
    mixed = config_of(folder, "one", {"books": {"weight": 5}})
    plain = DataConfig(corpus=str(folder / "books"), token_dir=str(folder / "plain"))
    quietly(mixed)
    quietly(dataclasses.replace(config_of(folder, "plain-run"), data=plain))
    for name in ("model.safetensors",):
        assert members(folder, "one")[name] == members(folder, "plain-run")[name]


def test_a_plan_counts_its_passes(folder, finished, monkeypatch):
    monkeypatch.setattr(plan_module, "MEASURED_SECONDS", 0.1)
    plan = plan_run(config_of(folder, "planned"))
    data = TokenData.open(config_of(folder).data, folder / "data")
    assert plan.train_tokens == data.train.num_tokens
    expected = 1 / sum(
        SHARES[name]["weight"] ** 2 / file.num_tokens for name, file in data.train.files.items()
    )
    assert plan.pass_tokens == pytest.approx(expected)
    assert plan.token_bytes == sum(path.stat().st_size for path in (folder / "data").rglob("*.memmap"))


def test_the_report_has_a_row_for_each_corpus(finished):
    run = read_run(finished[0].run_dir)
    rows = figures.mixture_rows(run)
    assert [row[:2] for row in rows] == [["books", "50.0%"], ["notes", "30.0%"], ["tale", "20.0%"]]
    assert [row[5] for row in rows] == ["640", "384", "256"]
    assert all(float(row[7]) > 0 for row in rows)
    assert "books + notes.jsonl + tale.txt" in figures.subtitle(run)
    assert "drawn so far" in report_html([run])
    spent = 20 * 64 / figures.pass_tokens(run, run.train)
    assert f"{spent:.3g} passes" in report_html([run])


def test_odd_records_of_a_mixture_are_left_out(finished):
    good = read_run(finished[0].run_dir)
    for bad in (
        "x",
        [7],
        [{"name": "a"}],
        [{"name": "a", "share": 2, "documents": 1, "bytes": 1, "tokens": 1}],
    ):
        run = dataclasses.replace(good, facts={**good.facts, "mixture": bad})
        assert run.mixture == []
        assert "drawn so far" not in report_html([run])


def test_its_held_out_text_is_evaluated(folder, finished):
    text = Text.find(config_of(folder).data, None)
    data = TokenData.open(config_of(folder).data, folder / "data")
    config = EvalConfig(eval=EvalSection(checkpoint=str(finished[0].run_dir)), data=config_of(folder).data)
    scores = compare.evaluate(config).first.scores
    assert len(scores) == data.val.num_documents
    assert scores.num_bytes.sum() == data.val.num_bytes
    assert str(text).startswith("the validation part of ")


def test_a_corpus_that_is_too_short_for_the_context_is_named(folder):
    config = config_of(folder, "short", shares={"books": {"weight": 1}, "tale": {"weight": 1}})
    long = dataclasses.replace(config, model=dataclasses.replace(config.model, context_length=3000))
    with pytest.raises(ConfigError, match="of the corpus tale"):
        quietly(long)
    assert not (folder / "short").exists() or not list((folder / "short").glob("checkpoints/*"))


def test_the_config_of_the_run_starts_the_same_run(finished):
    run_dir = finished[0].run_dir
    own = from_toml(TrainConfig, run_dir / "config.toml")
    assert own.data.mixture == mixture(run_dir.parent, **SHARES)
    assert quietly(own).steps == 20
    facts = json.loads((run_dir / "history.jsonl").read_text().splitlines()[0])
    assert [own["name"] for own in facts["mixture"]] == list(NAMES)
