"""Looking up byte strings in arrays, against dictionaries."""

import random

import numpy as np
import pytest

from transformerlm.tokenizer import token_table
from transformerlm.tokenizer.reachable import merges_of_lines
from transformerlm.tokenizer.token_table import ABSENT, EMPTY, NumberTable, Strings, TokenTable, lines_of


def random_tokens(seed):
    generator = random.Random(seed)
    return list(
        {generator.randbytes(generator.choice([0, 1, 2, 7, 8, 9, 15, 16, 17, 40])) for _ in range(500)}
    )


@pytest.mark.parametrize("seed", range(5))
def test_tokens_have_the_ids_of_a_dictionary(seed):
    known, others = random_tokens(seed), random_tokens(seed + 100)
    id_of = {token: 3 * index for index, token in enumerate(known)}
    found = TokenTable(Strings.of(known), id_of.values()).find(Strings.of(known + others))
    assert found.tolist() == [id_of.get(token, EMPTY) for token in known + others]


def test_strings_of_equal_hashes_are_told_apart_or_not_found(monkeypatch):
    monkeypatch.setattr(token_table, "_hashes", lambda strings: np.zeros(len(strings.sizes), np.int64))
    tokens = Strings.of([b"abcdefgh1", b"abcdefgh2", b"a"])
    assert TokenTable(tokens, range(3)).find(tokens).tolist() == [EMPTY, EMPTY, 2]


def test_of_equal_numbers_the_last_counts_and_others_are_absent():
    table = NumberTable(np.array([5, 7, 5, 1 << 40]))
    assert table.find(np.array([5, 7, 1 << 40, 6])).tolist() == [2, 1, 3, ABSENT]
    assert NumberTable(np.zeros(0, np.int64)).find(np.array([0])).tolist() == [ABSENT]


VOCAB = ["a", "b", "ab", "abab", "\n", "a\n"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a b", "ab ab"], [(0, 1, 2), (2, 2, 3)]),
        (["a \n"], [(0, 4, 5)]),
        (["a b", "a b"], None),
        (["a b", "ab"], None),
        (["a b ab", "ab"], None),
        (["a  b"], None),
        ([" a"], None),
        (["a "], None),
        (["b a"], None),
        (["a c"], None),
        (["a " + chr(0xDCFF)], None),
        (["a " + chr(0xDC80)], None),
        ([""], None),
    ],
)
def test_lines_are_merges_or_left_to_the_slow_way(lines, expected):
    tokens = TokenTable(Strings.between(*lines_of(VOCAB)), range(len(VOCAB)))
    content, ends = lines_of(lines)
    found = merges_of_lines(content, np.flatnonzero(content == ord(" ")), ends, tokens)
    assert (found and [*zip(*(part.tolist() for part in found), strict=True)]) == expected
