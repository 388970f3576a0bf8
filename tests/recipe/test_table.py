"""The table about a choice: its warnings name the thing of which there is too little."""

import dataclasses

from tests.recipe.known_facts import SPEED, automatic, budget, facts
from transformerlm.config import RuntimeConfig
from transformerlm.recipe import choice_rows, make_choice
from transformerlm.recipe.table import warnings
from transformerlm.runtime import Runtime


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


def test_copies_are_told_where_there_are_some():
    runtime, told = Runtime.from_config(RuntimeConfig(device="cpu", dtype="float32")), []
    for copied in (0.004, 0.37):
        known = dataclasses.replace(facts(), copied=copied)
        choice = make_choice(automatic(model={"vocab_size": 1024}), known, SPEED, budget())
        rows = choice_rows(choice, runtime)
        told += [value for _, what, value in rows if what == "copies"]
    (only,) = told
    assert only.startswith("37 % of the validation text stands in the training text")
