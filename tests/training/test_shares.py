"""Shares of a mixture's corpora, from their weights and passes."""

import dataclasses

import numpy as np
import pytest

from transformerlm.config import (
    DataConfig,
    MixtureConfig,
    ModelConfig,
    ScheduleConfig,
    TrainConfig,
    TrainingConfig,
)
from transformerlm.data import TokenData, TokenFile, TokenGroup, TokenWriter
from transformerlm.errors import ConfigError, Key
from transformerlm.training.shares import describe_shares, mixture_facts, with_passes, with_shares

SIZES = {"a": 6000, "b": 1000, "c": 500}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TokenData:
    folder, files = tmp_path_factory.mktemp("tokens"), {}
    for name, size in SIZES.items():
        with TokenWriter.create(folder / f"{name}.memmap", vocab_size=64, fingerprint="f") as writer:
            writer.write(np.zeros(size, np.uint16), num_documents=2, num_bytes=3 * size)
        files[name] = TokenFile.open(folder / f"{name}.memmap")
    return TokenData(TokenGroup(files), None)


def config_of(training=None, **shares) -> TrainConfig:
    parts = tuple(MixtureConfig(path=name, **own) for name, own in shares.items())
    return TrainConfig(
        data=DataConfig(mixture=parts),
        model=ModelConfig(vocab_size=64, context_length=10, d_model=16, num_layers=1, num_heads=2, d_ff=32),
        schedule=ScheduleConfig(warmup_steps=2),
        training=TrainingConfig(batch_size=20, **(training or {})),
    )


def some(data, *names) -> TokenData:
    return TokenData(TokenGroup({name: data.train.files[name] for name in names}), None)


def test_weights_are_relative(data):
    config = config_of(a={"weight": 3}, b={"weight": 1}, c={"weight": 4})
    found = with_shares(config, data)
    assert found.shares == {"a": 0.375, "b": 0.125, "c": 0.5}
    assert with_passes(config, found) == config


def test_passes_alone_are_the_length_of_the_run(data):
    config = config_of({"max_time": "1h"}, a={"passes": 0.5}, b={"passes": 4}, c={"passes": 6})
    found = with_shares(config, data)
    assert found.shares == {"a": 0.3, "b": 0.4, "c": 0.3}
    training = with_passes(config, found).training
    steps = training.steps_in_passes(10, found.pass_tokens)
    assert steps == 10_000 // 200  # 3,000 + 4,000 + 3,000 tokens, 200 a step
    assert steps * 200 * found.shares["c"] / SIZES["c"] == 6
    shorter = dataclasses.replace(config, training=dataclasses.replace(config.training, max_passes=0.5))
    assert with_passes(shorter, found).training.max_passes == 0.5


def test_passes_beside_weights_are_those_of_the_whole_run(data):
    config = config_of({"max_steps": 100}, a={"weight": 0.7}, b={"passes": 3}, c={"weight": 0.1})
    found = with_shares(config, data)
    assert 100 * 200 * found.shares["b"] / SIZES["b"] == pytest.approx(3)
    assert found.shares["a"] / found.shares["c"] == pytest.approx(7)
    assert sum(found.shares.values()) == pytest.approx(1)
    in_tokens = config_of({"max_tokens": 20_000}, a={"weight": 7}, b={"passes": 3}, c={"weight": 1})
    assert with_shares(in_tokens, data).shares == pytest.approx(found.shares)


@pytest.mark.parametrize(("budget", "size", "least"), [("max_steps", 15, 16), ("max_tokens", 3000, 3200)])
def test_passes_that_leave_nothing_are_refused_with_what_is_needed(budget, size, least, data):
    def shares(size):
        config = config_of({budget: size}, a={"weight": 1}, b={"passes": 3})
        return with_shares(config, some(data, "a", "b")).shares

    with pytest.raises(ConfigError) as caught:
        shares(size)
    assert caught.value.problems[0].key == Key("training", budget)
    assert f"expected at least {least:,}, " in str(caught.value)
    assert 0 < shares(least)["a"] < 0.1


def refused(training, **shares) -> Key:
    with pytest.raises(ConfigError) as caught:
        config_of(training, **shares)
    (problem,) = caught.value.problems
    return problem.key


def test_a_number_of_steps_is_where_it_is_needed_and_nowhere_else():
    passes, weight = {"passes": 2}, {"weight": 2}
    assert refused({"max_time": "1m"}, a=passes, b=weight) == Key("data", "mixture")
    assert refused({}, a=passes, b=weight) == Key("data", "mixture")
    assert refused({"max_steps": 1000}, a=passes, b=passes) == Key("training", "max_steps")
    assert refused({"max_tokens": 10**6}, a=passes) == Key("training", "max_tokens")
    for training in ({}, {"max_time": "1m"}, {"max_steps": 1000}):
        config_of(training, a=weight, b=weight)


def test_one_corpus_has_no_shares(data):
    own = TokenData(data.train.files["a"], None)
    assert with_shares(TrainConfig(), own) is own
    assert with_passes(TrainConfig(), own) == TrainConfig()
    assert (own.pass_tokens, own.size_of(own.train)) == (6000, (6000, 18000))


def test_what_is_said_of_them(data):
    found = with_shares(config_of(a={"weight": 3}, b={"weight": 1}), some(data, "a", "b"))
    assert (
        describe_shares(found, 12_000) == "75 % a (6,000 tokens, 1.5 passes), 25 % b (1,000 tokens, 3 passes)"
    )
    assert describe_shares(found, None) == "75 % a (6,000 tokens), 25 % b (1,000 tokens)"
    assert mixture_facts(found)[1] == {
        "name": "b",
        "share": 0.25,
        "documents": 2,
        "bytes": 3000,
        "tokens": 1000,
    }
    tokens, num_bytes = found.size_of(found.train)
    assert num_bytes / tokens == 3
