"""The table about a choice: its warnings name the thing of which there is too little."""

import dataclasses

import pytest

from tests.recipe.known_facts import SPEED, automatic, budget, facts
from transformerlm.recipe import make_choice
from transformerlm.recipe.table import warnings


def warned(seconds, **tables):
    known = dataclasses.replace(facts(), ngram_bits=3.5)
    return warnings(make_choice(automatic(**tables), known, SPEED, budget(seconds)))


def test_text_and_time_that_suffice_need_no_warning():
    assert warned(110) == []


def test_too_little_time_is_told_with_the_time_that_suffices():
    (line,) = warned(0.5, training={"max_time": "5s"})
    assert "5s is too little time" in line
    assert "--training.max_time=" in line


def test_where_passes_are_the_limit_no_time_is_blamed():
    (line,) = warned(10**6, training={"max_passes": 0.01})
    assert "0.01 passes over this text" in line
    assert "no time" in line


@pytest.mark.parametrize(("share", "is_warned"), [(0.5, True), (0.97, False)])
def test_what_may_be_better_than_n_grams_by_its_interval_is_no_reason_to_warn(share, is_warned):
    config = automatic(training={"max_passes": 0.3})
    known = facts()
    for _ in range(50):  # how much a text gains from reading goes by the n-grams too
        choice = make_choice(config, known, SPEED, budget(10**6))
        known = dataclasses.replace(known, ngram_bits=share * choice.chosen.bits_per_byte)
    assert (choice.facts.ngram_bits >= choice.low) is not is_warned
    assert choice.facts.ngram_bits < choice.chosen.bits_per_byte
    assert len(warnings(choice)) == is_warned
