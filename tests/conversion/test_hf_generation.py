"""Settings of generation, from and to Hugging Face's files."""

import pytest

from tests.small_models import END, bytes_only, tokenizer
from transformerlm.config import GenerationConfig
from transformerlm.conversion.hf_generation import generation_config, generation_of, not_taken
from transformerlm.errors import CheckpointError

USER = "<|user|>"
ID, USER_ID = tokenizer().special_token_ids[END], tokenizer().special_token_ids[USER]


def read(bos_token="", **values):
    return generation_of(values, tokenizer(), bos_token, "generation_config.json")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {}),
        ({"do_sample": True}, {"temperature": 1.0, "top_p": 1.0, "top_k": 50}),
        ({"do_sample": True, "top_k": 0}, {"temperature": 1.0, "top_p": 1.0, "top_k": None}),
        ({"do_sample": False, "temperature": 0.6, "top_k": 5}, {"temperature": 0.0}),
        ({"temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_p": 0.9}),
        ({"min_p": 0.1, "max_new_tokens": 7}, {"min_p": 0.1, "max_new_tokens": 7}),
        ({"repetition_penalty": 1.1, "temperature": None}, {"repetition_penalty": 1.1}),
    ],
)
def test_sampling_is_read_as_transformers_means_it(values, expected):
    assert read(**values) == GenerationConfig(eos_token="", prompts=("The",), **expected)


def test_of_several_ends_one_is_the_end_of_text_and_the_others_stop_it():
    found = read(eos_token_id=[USER_ID, ID])
    assert (found.eos_token, found.stop_tokens, found.prompts) == (USER, (END,), ("",))
    kept = tokenizer().tokenizer_config | {"eos_token": END}
    named = type(tokenizer())(tokenizer().vocab, tokenizer().merges, [END, USER], tokenizer_config=kept)
    found = generation_of({"eos_token_id": [USER_ID, ID]}, named, USER, "x")
    assert (found.eos_token, found.stop_tokens, found.bos_token) == (END, (USER,), USER)


def test_values_that_are_not_allowed_are_named():
    with pytest.raises(CheckpointError) as caught:
        read(temperature="hot", top_p=0)
    assert caught.value.lines == [
        'generation_config.json: temperature: expected a number of at least 0, got "hot"',
        "generation_config.json: top_p: expected a number above 0 and at most 1, got 0",
    ]


def test_what_this_package_does_not_have_is_named_and_what_has_no_effect_is_not():
    size = tokenizer().vocab_size
    silent = {"num_beams": 1, "typical_p": 1.0, "use_cache": True, "output_scores": False, "min_length": 0}
    silent |= {"suppress_tokens": [size, size + 9], "transformers_version": "4.51", "eos_token_id": ID}
    assert list(not_taken(silent | {"temperature": 0.5, "bad_words_ids": None}, tokenizer())) == []
    loud = {"num_beams": 4, "suppress_tokens": [3], "eos_token_id": [ID, 5], "max_length": 4096}
    assert list(not_taken(loud, tokenizer())) == [
        "eos_token_id = 5, which is no special token",
        "num_beams = 4",
        "suppress_tokens = [3]",
        "max_length = 4096",
    ]


OWN = GenerationConfig(
    bos_token=USER, stop_tokens=(USER,), temperature=0.5, top_k=9, min_p=0.1, repetition_penalty=1.3
)


@pytest.mark.parametrize("own", [OWN, GenerationConfig(temperature=0.0), GenerationConfig(max_new_tokens=3)])
def test_what_is_written_is_read_back(own):
    roles = {"bos_token": own.bos_token or END, "eos_token": END, "pad_token": USER}
    values = generation_config(own, tokenizer(), roles, range(400, 402))
    assert values["suppress_tokens"] == [400, 401]
    assert values["pad_token_id"] == USER_ID
    assert list(not_taken(values, tokenizer())) == []
    back = read(bos_token=own.bos_token, **values)
    if own.temperature == 0:
        assert back.temperature == 0
    else:
        assert back == own


def test_without_special_tokens_nothing_ends_a_text():
    roles = dict.fromkeys(("bos_token", "eos_token", "pad_token"))
    values = generation_config(GenerationConfig(eos_token=""), bytes_only(), roles, range(0))
    assert {values[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")} == {None}
