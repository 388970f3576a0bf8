"""Vocabularies whose tokens are made when they are asked for, against dictionaries."""

import numpy as np
import pytest

from transformerlm.tokenizer.byte_alphabet import text_to_token
from transformerlm.tokenizer.lazy_vocab import (
    LazyVocab,
    SpelledVocab,
    different_ids,
    max_id_of,
    strings_of,
    tokens_of,
)
from transformerlm.tokenizer.vocabulary import with_special_tokens


@pytest.fixture(scope="session", autouse=True)
def kernels():
    """Nothing here depends on them: once is enough."""


IDS = {"Ġthe": 2, "a": 0, "Ċ": 7, "é": 1, "<|e|>": 3, "": 4}
"""Key in GPT-2's spelling -> id."""
TOKENS = {number: text_to_token(key) for key, number in IDS.items()}


def spelled(ids):
    return SpelledVocab.of(ids, np.array([*ids.values()]))


def test_tokens_are_made_once_and_what_they_were_made_of_is_freed():
    made = []

    def make():
        made.append(1)
        return {0: b"a", 3: b"b"}

    vocab = LazyVocab(3, make)
    assert made == []
    assert max_id_of(vocab) == max_id_of({0: b"a", 3: b"b"}) == 3
    assert tokens_of(vocab) == {0: b"a", 3: b"b"}
    assert tokens_of(vocab) is tokens_of(vocab)
    assert made == [1]
    assert make not in vars(vocab).values()


def test_keys_spell_tokens_in_the_order_of_the_file():
    vocab = spelled(IDS)
    assert [*vocab.tokens().items()] == [*TOKENS.items()]
    assert max_id_of(vocab) == 7
    assert {number: vocab.id_of(token) for number, token in TOKENS.items()} == {n: n for n in TOKENS}
    assert vocab.id_of(b"b") is None


def test_strings_are_those_of_the_dictionary():
    for vocab in (spelled(IDS), TOKENS):
        strings, numbers = strings_of(vocab)
        parts = zip(strings.starts, strings.sizes, strict=True)
        tokens = [strings.content[start : start + size].tobytes() for start, size in parts]
        assert [*zip(numbers.tolist(), tokens, strict=True)] == [*TOKENS.items()]


@pytest.mark.parametrize("key", ["a b", "a\n", "\n", "中", "\x00", "👍", "\u00ad"])
def test_keys_of_other_letters_spell_nothing(key):
    assert spelled({**IDS, key: 5}) is None


def test_without_keys_nothing_is_spelled():
    assert spelled({}) is None


@pytest.mark.parametrize(
    ("values", "are_ids"),
    [
        ([], True),
        ([0, 1, 2], True),
        ([2, 0, 9], True),
        ([2**62, 0], True),
        ([0, 0], False),
        ([5, 1, 5], False),
        ([0, -1], False),
        ([0, 2**63], False),
        ([0, 1.0], False),
        ([0, True], False),
        ([0, None], False),
        ([0, "1"], False),
    ],
)
def test_ids_are_different_integers_from_0_on(values, are_ids):
    found = different_ids(values)
    assert (None if found is None else found.tolist()) == (values if are_ids else None)


@pytest.mark.parametrize("special", [[], ["a"], ["<|e|>", " the"], ["new", "a", "é", "日本"]])
def test_special_tokens_get_the_ids_that_they_get_in_a_dictionary(special):
    ids = {key: number for number, key in enumerate(IDS)}
    tokens = {number: text_to_token(key) for key, number in ids.items()}
    vocab, found = with_special_tokens(spelled(ids), special)
    expected, expected_ids = with_special_tokens(tokens, special)
    assert tokens_of(vocab) == expected
    assert found == expected_ids
    assert max_id_of(vocab) == max_id_of(expected)
