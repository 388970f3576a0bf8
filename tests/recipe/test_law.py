"""The scaling law starts from a pilot."""

import dataclasses
import itertools
import math

import pytest

from transformerlm.config import ModelConfig
from transformerlm.recipe import TextFacts
from transformerlm.recipe.law import (
    LAW,
    MAX_STEEPNESS,
    MIN_STEEPNESS,
    bits_per_byte,
    effective_bytes,
    interval,
    steepness,
)
from transformerlm.recipe.pilot import Pilot

LARGER = ModelConfig(
    vocab_size=1024, context_length=128, d_model=192, num_layers=6, num_heads=6, d_ff=512, tie_embeddings=True
)


def facts(train_bytes: int = 10**7, ngram_bits: float = 2.0) -> TextFacts:
    return TextFacts(train_bytes, 10**5, ngram_bits, Pilot(2.4, 10**6, 1024), {1024: 2.5})


def test_the_pilots_own_model_after_as_many_bytes_has_its_bits_but_for_the_constant():
    pilot = facts().pilot
    found = bits_per_byte(facts(), pilot.shape, pilot.read_bytes / 2.5)
    assert found == pytest.approx(pilot.bits_per_byte * math.exp(LAW.k))


def test_a_larger_model_and_more_text_are_expected_to_be_better():
    model = facts().pilot.shape
    after = [bits_per_byte(facts(), model, tokens) for tokens in (10**5, 10**6, 10**7)]
    assert after == sorted(after, reverse=True)
    assert bits_per_byte(facts(), LARGER, 10**6) < after[1]


def test_a_text_that_repeats_itself_gains_more():
    plain, repetitive = (bits_per_byte(facts(ngram_bits=g), LARGER, 10**6) for g in (2.4, 0.8))
    assert repetitive < plain


def test_what_a_text_gains_has_limits():
    factors = [steepness(facts(ngram_bits=g), LAW.e) for g in (0.0, 0.1, 1.0, 7.9)]
    assert factors == [MAX_STEEPNESS, MAX_STEEPNESS, 1.0, MIN_STEEPNESS]


def test_read_again_a_text_is_worth_less_and_less():
    worth = [effective_bytes(1e6, passes * 1e6, LAW.R) for passes in (0.5, 1, 2, 4, 100)]
    gains = [after - before for before, after in itertools.pairwise(worth[1:])]
    assert worth[:2] == [0.5e6, 1e6]
    assert all(gain > 0 for gain in gains)
    assert worth[-1] <= (1 + LAW.R) * 1e6


def width(of, bits):
    low, high = interval(of, bits)
    assert low * high == pytest.approx(bits**2)
    return high / low


def test_the_further_from_the_pilot_the_wider_is_the_interval():
    assert 1 < width(facts(), 2.3) < width(facts(), 1.5)


def test_where_much_of_the_text_is_copied_the_interval_is_wider_except_beside_the_pilot():
    copied = dataclasses.replace(facts(), copied=0.5)
    assert width(facts(), 1.5) < width(copied, 1.5)
    assert width(facts(), 2.4) == width(copied, 2.4)


@pytest.mark.parametrize("bits", [0.0, 1e-9, 1e-3, 7.9])
def test_whatever_the_pilot_found_the_interval_stays_above_zero(bits):
    odd = TextFacts(10**6, 10**5, bits, Pilot(bits, 10**5, 1024), {1024: 2.5})
    expected = bits_per_byte(odd, LARGER, 10**8)
    low, high = interval(odd, expected)
    assert 0 < low < expected < high < math.inf
