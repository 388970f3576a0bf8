import pytest

from transformerlm.config import (
    CorpusConfig,
    ModelConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainConfig,
    TrainingConfig,
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
        ({"optimizer": {"betas": [0.9, 1.0]}}, "[optimizer].betas: expected two numbers from 0 to below 1"),
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
    ],
)
def test_values_that_do_not_fit_each_other(values, line):
    with pytest.raises(ConfigError) as caught:
        from_dict(TrainConfig, values, "x.toml")
    assert line in caught.value.lines[0]
    assert len(caught.value.lines) == 1


def test_derived_values():
    model = ModelConfig(d_model=64, num_heads=4)
    assert (model.d_head, model.kv_heads) == (16, 4)
    assert ModelConfig(num_heads=8, num_kv_heads=2).kv_heads == 2
    assert TrainingConfig(batch_size=6).forward_batch_size == 6
    assert TrainingConfig(batch_size=6, micro_batch_size=2).forward_batch_size == 2
    assert TrainConfig().cosine_steps == TrainConfig().training.max_steps
    assert OptimizerConfig().max_grad_norm == 1.0
    assert TokenizerConfig(vocab_size=257).vocab_size == 257


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
