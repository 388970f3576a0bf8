"""The choice: what is set stays, all else is chosen, and more time or text never promises less."""

import dataclasses
import math

import pytest

from tests.recipe.known_facts import SPEED, automatic, budget, facts
from transformerlm.config import ModelConfig, TrainConfig, TrainingConfig
from transformerlm.config.automatic import with_automatic
from transformerlm.errors import ConfigError
from transformerlm.recipe import TrainingSpeed, choose, law, make_choice
from transformerlm.recipe.choice import candidate, context_length, is_sensible, models, num_heads
from transformerlm.schema import from_dict


@pytest.mark.parametrize("train_bytes", [200, 5_000, 80_000, 10**6, 10**8, 10**11])
@pytest.mark.parametrize("seconds", [2, 60, 3600, 10**6])
def test_everything_that_a_run_needs_is_chosen(train_bytes, seconds):
    choice = make_choice(automatic(), facts(train_bytes), SPEED, budget(seconds))
    assert not choice.config.automatic()
    model, training = choice.config.model, choice.config.training
    assert model.d_model % (2 * model.num_heads) == 0
    assert model.context_length < train_bytes
    steps = choice.chosen.tokens / (training.batch_size * model.context_length)
    assert choice.config.schedule.warmup_steps <= max(1, steps / 10)
    assert choice.low < choice.chosen.bits_per_byte < choice.high
    assert all(map(math.isfinite, (choice.low, choice.high)))


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("model", {"d_model": 200, "num_layers": 3}),
        ("model", {"num_heads": 4, "context_length": 77, "d_ff": 100}),
        ("optimizer", {"lr": 1e-4, "muon_lr": 0.5, "weight_decay": 0.0}),
        ("schedule", {"warmup_steps": 0}),
        ("training", {"batch_size": 3, "dropout": 0.15, "max_passes": 1.5, "validate_every": 7}),
    ],
)
def test_what_is_set_stays(table, values):
    choice = make_choice(automatic(**{table: values}), facts(), SPEED, budget())
    section = getattr(choice.config, table)
    assert {name: getattr(section, name) for name in values} == values


def test_the_model_with_the_lowest_expected_loss_is_chosen_among_those_of_proven_sizes():
    config, known = automatic(), facts()
    best = choose(config, known, SPEED, budget())
    for model in models(config.model, known):
        one = candidate(config, model, known, SPEED, budget())
        is_small = one.size <= law.MAX_PARAMETERS  # for a megabyte
        if is_small and one.passes * known.train_bytes <= law.MAX_BYTES_PER_PARAMETER * one.size:
            assert one.bits_per_byte >= best.bits_per_byte
    assert best.size <= law.MAX_PARAMETERS


@pytest.mark.parametrize("train_bytes", [10**6, 10**8])
def test_more_time_and_more_text_take_a_larger_model(train_bytes):
    found = [choose(automatic(), facts(train_bytes), SPEED, budget(4.0**n)) for n in range(2, 9)]
    assert found[-1].size > found[0].size
    assert found[-1].bits_per_byte < found[0].bits_per_byte
    assert choose(automatic(), facts(4 * train_bytes), SPEED, budget(4.0**8)).size > found[-1].size


def test_a_slower_machine_gets_a_smaller_model():
    slow = TrainingSpeed({width: rate / 20 for width, rate in SPEED.flops.items()})
    quick, slowly = (choose(automatic(), facts(10**8), speed, budget()) for speed in (SPEED, slow))
    assert slowly.model.d_model < quick.model.d_model
    assert slowly.bits_per_byte > quick.bits_per_byte


def test_passes_end_where_the_text_is_used_up():
    choice = make_choice(automatic(), facts(20_000), SPEED, budget(10**5))
    assert choice.chosen.passes == pytest.approx(choice.config.training.max_passes)
    assert choice.config.training.dropout > 0.1


def test_a_text_that_is_read_once_needs_no_dropout():
    assert make_choice(automatic(), facts(10**10), SPEED, budget()).config.training.dropout == 0


def test_heads_divide_any_even_width():
    for width in range(2, 1100, 2):
        heads = num_heads(width)
        assert width % (2 * heads) == 0


def test_batches_are_of_whole_micro_batches_and_a_warm_up_ends_before_the_schedule():
    config = automatic(training={"micro_batch_size": 5}, schedule={"cosine_steps": 20, "name": "cosine"})
    chosen = make_choice(config, facts(), SPEED, budget()).config
    assert chosen.training.batch_size % 5 == 0
    assert chosen.schedule.warmup_steps < 20


def test_heads_go_with_key_heads_that_are_set():
    model = choose(automatic(model={"num_kv_heads": 3}), facts(), SPEED, budget()).model
    assert model.num_heads % 3 == 0
    assert choose(automatic(model={"num_heads": 5}), facts(), SPEED, budget()).model.d_model % 10 == 0
    with pytest.raises(ConfigError, match="num_heads"):
        choose(automatic(model={"num_heads": 1021}), facts(), SPEED, budget())


def test_a_context_fits_into_a_short_text():
    assert 300 <= context_length(facts(10**6), 4096) * 3.3 < 600
    assert context_length(facts(10**9), 4096) > context_length(facts(10**6), 4096)
    assert context_length(facts(2_000), 257) <= 500
    assert context_length(facts(100), 257) < 100


def test_settings_that_go_with_no_model_are_refused():
    with pytest.raises(ConfigError, match="num_heads"):
        choose(automatic(model={"num_heads": 7, "d_model": 64}), facts(), SPEED, budget())


def test_an_interval_of_ones_own_ends_no_run_early():
    assert automatic().training.patience == 3
    assert automatic(training={"validate_every": 0}).training.patience is None


def test_without_a_time_nothing_is_chosen():
    assert with_automatic({"training": {"max_steps": 200}}) == {"training": {"max_steps": 200}}
    assert from_dict(TrainConfig, with_automatic({"training": {"max_steps": 200}})) == TrainConfig(
        training=TrainingConfig(max_steps=200)
    )
    with pytest.raises(ConfigError, match="max_time"):
        TrainConfig(model=ModelConfig(d_model="auto"))


@pytest.mark.parametrize(("share", "expected"), [(0.5, False), (0.97, True), (1.1, True)])
def test_what_may_be_better_than_n_grams_by_its_interval_is_sensible(share, expected):
    known, limits = facts(), budget(10**6)
    choice = make_choice(automatic(training={"max_passes": 0.3}), known, SPEED, limits)
    bits = share * choice.chosen.bits_per_byte
    assert (choice.low <= bits) is expected
    assert is_sensible(choice.chosen, dataclasses.replace(known, ngram_bits=bits), limits) is expected
