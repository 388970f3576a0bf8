import pytest

from transformerlm.config import (
    CorpusConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TokenizerConfig,
    TrainConfig,
    TrainingConfig,
    seconds_of,
)
from transformerlm.errors import ConfigError
from transformerlm.schema import from_dict


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"model": {"d_model": 100, "num_heads": 3}},
            "[model].num_heads: expected a divisor of d_model = 100, got 3",
        ),
        (
            {"model": {"d_model": 12, "num_heads": 4}},
            "[model].num_heads: expected an even d_model / num_heads",
        ),
        (
            {"model": {"num_heads": 8, "num_kv_heads": 3}},
            "[model].num_kv_heads: expected a divisor of num_heads = 8",
        ),
        (
            {"generation": {"eos_token": ""}},
            '[generation].prompts: expected some text, got "": without a bos_token or an eos_token',
        ),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "[optimizer].betas: expected two numbers from 0 to below 1"),
        (
            {"runtime": {"weights": "int8"}},
            '[runtime].weights: expected "auto" in training, which keeps float32, got "int8"',
        ),
        (
            {"tokenizer": {"vocab_size": 256}},
            "[tokenizer].vocab_size: expected at least 257 (256 bytes and 1",
        ),
        (
            {"tokenizer": {"special_tokens": ["a", "a"]}},
            "[tokenizer].special_tokens: expected no token twice",
        ),
        (
            {"training": {"batch_size": 8, "micro_batch_size": 3}},
            "expected a divisor of batch_size = 8, got 3",
        ),
        (
            {"training": {"max_steps": 50}, "schedule": {"warmup_steps": 50}},
            "[schedule].warmup_steps: expected fewer than the schedule's 50 steps, got 50",
        ),
        (
            {"training": {"max_tokens": 1000, "max_time": "20m"}},
            "[training].max_time: expected one budget, got max_tokens and max_time; say None",
        ),
        ({"training": {"max_time": "soon"}}, '[training].max_time: expected a time such as "90s", "20m"'),
        ({"training": {"max_time": "0s"}}, "[training].max_time: expected a time such as"),
        (
            {"training": {"micro_batch_size": "most"}},
            '[training].micro_batch_size: expected a whole number of at least 1 or one of "auto", got "most"',
        ),
        ({"training": {"micro_batch_size": 0}}, "[training].micro_batch_size: expected a whole number"),
    ],
)
def test_values_that_do_not_fit_each_other(values, line):
    with pytest.raises(ConfigError) as caught:
        from_dict(TrainConfig, values, "x.toml")
    assert line in caught.value.lines[0]
    assert len(caught.value.lines) == 1


def test_derived_values():
    model = ModelConfig(d_model=64, num_heads=4)
    assert (model.head_dim, model.kv_heads) == (16, 4)
    assert ModelConfig(num_heads=8, num_kv_heads=2).kv_heads == 2
    assert TrainConfig().schedule_steps == 1000
    assert OptimizerConfig().max_grad_norm == 1.0
    assert TokenizerConfig(vocab_size=257).vocab_size == 257


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("20m", 1200),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        (" 1d 2h 3m 4s ", 93784),
        ("1.5h", 5400),
        ("0.5s", 0.5),
        ("", None),
        ("20", None),
        ("m", None),
        ("30m1h", None),
        ("-5m", None),
        ("0m", None),
        ("1e3s", None),
        ("20 minutes", None),
    ],
)
def test_times(text, seconds):
    assert seconds_of(text) == seconds


def test_a_budget_is_steps_or_tokens_or_a_time():
    assert TrainingConfig().steps_in_budget(256) == 1000
    assert TrainingConfig(max_steps=7).steps_in_budget(256) == 7
    assert TrainingConfig(max_tokens=8192, batch_size=32).steps_in_budget(256) == 1
    assert TrainingConfig(max_tokens=8193, batch_size=32).steps_in_budget(256) == 2
    timed = TrainingConfig(max_time="20m")
    assert (timed.steps_in_budget(256), timed.max_seconds) == (None, 1200)
    assert TrainingConfig().max_seconds is None


def test_the_schedule_ends_with_the_budget_or_where_it_is_told_to():
    def config(**training):
        return TrainConfig(training=TrainingConfig(**training))

    assert config(max_steps=777).schedule_steps == 777
    assert config(max_tokens=256 * 32 * 500).schedule_steps == 500
    assert config(max_time="20m").schedule_steps is None
    told = TrainConfig(training=TrainingConfig(max_time="20m"), schedule=ScheduleConfig(cosine_steps=300))
    assert told.schedule_steps == 300


def test_a_model_needs_a_vocabulary():
    with pytest.raises(ConfigError, match="vocab_size"):
        _ = ModelConfig().vocabulary_rows
    assert ModelConfig(vocab_size=10).vocabulary_rows == 10


@pytest.mark.parametrize(
    ("corpus", "name"),
    [
        ("python-stdlib", "python-stdlib"),
        ("some/where/My Notes.txt", "My-Notes"),
        ("texts/books/*.txt", "books"),
        ("texts/books/", "books"),
        ("**/*.md", None),
        ("/", "corpus"),
        ("dir/.hidden", "hidden"),
    ],
)
def test_a_corpus_has_a_name_that_a_folder_can_have(corpus, name, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert CorpusConfig(corpus=corpus).corpus_name == (name or "here")
