"""Looking up byte strings in arrays, against dictionaries."""

import random

import numpy as np
import pytest

from transformerlm.tokenizer import token_table
from transformerlm.tokenizer.reachable import merges_of_lines
from transformerlm.tokenizer.token_table import (
    ABSENT,
    EMPTY,
    NumberTable,
    Strings,
    TokenTable,
    lines_of,
    padded,
)


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


@pytest.mark.parametrize(
    ("hashes", "expected"),
    [
        (
            lambda strings, first, seed: strings.sizes % (seed + 2),
            [0, 1, 2, EMPTY],
        ),  # all different for one seed
        (lambda strings, first, seed: np.zeros_like(strings.sizes), [EMPTY, EMPTY, 2, EMPTY]),
    ],
)
def test_strings_of_equal_hashes_are_told_apart(monkeypatch, hashes, expected):
    monkeypatch.setattr(token_table, "_hashes", hashes)
    tokens = Strings.of([b"abcdefgh1", b"abcdefgh234", b"a"])
    found = TokenTable(tokens, range(3)).find(Strings.of([b"abcdefgh1", b"abcdefgh234", b"a", b"b"]))
    assert found.tolist() == expected


def test_hashes_that_agree_for_one_seed_differ_for_another():
    one = bytes(16)
    for word in range(1, 3):
        changed = word.to_bytes(8, "little") + bytes(8)
        first, second = (_after_first_word(content, 0) for content in (one, changed))
        other = changed[:8] + (first ^ second).to_bytes(8, "little")
        tokens = Strings.of([one, other])
        assert len(set(token_table._hashes(tokens, tokens.words(0), 0).tolist())) == 1
        assert len(set(token_table._hashes(tokens, tokens.words(0), 1).tolist())) == 2
        assert TokenTable(tokens, [5, 6]).find(tokens).tolist() == [5, 6]


def _after_first_word(content, seed):
    """State of the hash behind the first word, from its definition."""
    mix, size = int(token_table._MIX), 1 << 64
    state = (len(content) << 8 | seed) * mix % size
    state = (state ^ int.from_bytes(content[:8], "little")) * mix % size
    return state ^ state >> 32


@pytest.mark.parametrize("first", [0, 3, 90])
@pytest.mark.parametrize("change", [None, "a", "longer"])
def test_tokens_in_a_row_are_found_as_others_are(first, change):
    known = [f"{number} token".encode() for number in range(100)]
    content = b"".join(token + b"\n" for token in known)
    ends = np.cumsum([len(token) + 1 for token in known]) - 1
    table = TokenTable(Strings.between(padded(content), ends), range(0, 300, 3))
    wanted = known[first : first + 40]
    if change:
        wanted[-1] = change.encode()
    ends = np.cumsum([len(token) + 1 for token in wanted]) - 1
    strings = Strings.between(padded(b"\n".join([*wanted, b""])), ends)
    expected = [3 * known.index(token) if token in known else EMPTY for token in wanted]
    assert table.find_in_order(strings).tolist() == table.find(strings).tolist() == expected
    assert table.find_in_order(Strings.of([])).tolist() == []


def test_without_tokens_none_is_found():
    assert TokenTable(Strings.of([]), []).find(Strings.of([b"", b"a"])).tolist() == [EMPTY, EMPTY]


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
        (["a \0"], None),
        ([""], None),
    ],
)
def test_lines_are_merges_or_left_to_the_slow_way(lines, expected):
    tokens = TokenTable(Strings.between(*lines_of(VOCAB)), range(len(VOCAB)))
    content, ends = lines_of(lines)
    found = merges_of_lines(content, np.flatnonzero(content == ord(" ")), ends, tokens)
    assert (found and [*zip(*(part.tolist() for part in found), strict=True)]) == expected


@pytest.mark.parametrize("texts", [["a", "", "é\n"], ["\0"], ["a\0b", "", "\0\0"], [""]])
def test_lines_are_the_texts_whatever_they_hold(texts):
    strings = Strings.between(*lines_of(texts))
    parts = zip(strings.starts, strings.sizes, strict=True)
    assert [strings.content[start : start + size].tobytes().decode() for start, size in parts] == texts


def test_merges_of_tokens_with_a_zero_are_found():
    known = ["a", "\0", "a\0"]
    tokens = TokenTable(Strings.between(*lines_of(known)), range(3))
    content, ends = lines_of(["a \0"])
    found = merges_of_lines(content, np.flatnonzero(content == ord(" ")), ends, tokens)
    assert [part.tolist() for part in found] == [[0], [1], [2]]


def test_unpaired_surrogates_are_no_lines():
    for texts in (["a", chr(0xDC80)], ["a\0", chr(0xDCFF)], ["a\0", chr(0xD800)]):
        with pytest.raises(UnicodeEncodeError):
            lines_of(texts)
