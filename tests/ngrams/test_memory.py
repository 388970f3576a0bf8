"""Lookups by the compiled kernels against the definition, for every beginning of a text."""

import itertools
import math
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.ngrams.sequences import cases, noise, phrases
from transformerlm.kernels.ngrams_layout import MAX_OCCURRENCES, ORDERS
from transformerlm.ngrams import Factors, NgramIndex, NgramMemory
from transformerlm.ngrams.factors import LEAST
from transformerlm.ngrams.memory import TextMemory
from transformerlm.ngrams.reference import weights_behind

EXACT = {"rel": 1e-12, "abs": 0}


def memory_of(training: list[int], vocab_size: int, factors: Factors | None = None) -> NgramMemory:
    index = NgramIndex.build([np.array(training, np.uint16)], vocab_size)
    return NgramMemory(index, factors or Factors())


def found_in(text: TextMemory) -> tuple[dict[int, float], float]:
    found = text.find()
    assert len(set(found.ids.tolist())) == len(found.ids) == len(found.weights)
    return dict(zip(found.ids.tolist(), found.weights.tolist(), strict=True)), found.total


def assert_same(found: tuple[dict[int, float], float], expected: tuple[dict[int, float], float]) -> None:
    assert found[0] == pytest.approx(expected[0], **EXACT)
    assert found[1] == pytest.approx(expected[1], **EXACT)


@pytest.mark.parametrize("name", cases())
def test_equals_the_definition_at_every_place(name):
    training, text, vocab_size = cases()[name]
    memory = memory_of(training, vocab_size)
    weights, totals = memory.score(np.array(text, np.uint16))
    so_far = memory.text()
    for place, token in enumerate(text):
        expected = weights_behind(training, text[:place])
        assert_same(found_in(so_far), expected)
        assert weights[place] == pytest.approx(expected[0].get(token, 0.0), **EXACT)
        assert totals[place] == pytest.approx(expected[1], **EXACT)
        so_far.extend([token])
    assert_same(found_in(so_far), weights_behind(training, text))


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_definition_for_random_texts_and_factors(seed):
    rng = random.Random(seed)
    make, vocab_size = rng.choice([noise, phrases]), rng.randint(1, 30)
    training, text = (make(rng.randrange(9), rng.randint(0, 150), vocab_size) for _ in range(2))
    factors = Factors(
        {order: math.exp(rng.uniform(-9, 9)) for order in ORDERS},
        {order: math.exp(rng.uniform(-9, 9)) for order in (1, *ORDERS)},
    )
    memory, before = memory_of(training, vocab_size, factors), memory_of(training, vocab_size).text()
    so_far = memory.text()
    so_far.extend(text)
    before.extend(text)
    assert_same(found_in(so_far), weights_behind(training, text, factors))
    assert_same(found_in(before), weights_behind(training, text))  # shares nothing but the training text


def many(kind: str) -> tuple[list[int], list[int], int]:
    """Texts in which contexts occur more often than counts."""
    number = 2 * MAX_OCCURRENCES + 77
    if kind == "one token":
        return [0] * number, [0] * number, 1
    if kind == "two tokens":
        return noise(0, 2 * number, 2), noise(1, 2 * number, 2), 2
    return phrases(0, 6 * number, 2), phrases(0, 2 * number, 2), 2


@pytest.mark.parametrize("kind", ["one token", "two tokens", "phrases"])
def test_equals_the_definition_where_contexts_occur_too_often(kind):
    training, text, vocab_size = many(kind)
    memory = memory_of(training, vocab_size)
    so_far = memory.text()
    so_far.extend(text)
    assert_same(found_in(so_far), weights_behind(training, text))
    weights, totals = memory.score(np.array(text))
    expected = weights_behind(training, text[:-1])
    assert weights[-1] == pytest.approx(expected[0].get(text[-1], 0.0), **EXACT)
    assert totals[-1] == pytest.approx(expected[1], **EXACT)


@pytest.mark.parametrize(
    "factors", [Factors(), Factors(dict.fromkeys(ORDERS, LEAST), dict.fromkeys((1, *ORDERS), LEAST))]
)
def test_a_token_that_goes_on_and_on_is_certain_and_finite(factors):
    memory = memory_of([0] * 1300, 2, factors)
    weights, totals = memory.score(np.zeros(1300, np.int64))
    assert np.isfinite(totals).all()
    assert weights[-1] / totals[-1] == pytest.approx(1)
    assert totals[-1] > 1e31


def test_a_text_grows_beyond_its_first_room():
    training, text = phrases(0, 500, 12), phrases(3, 1100, 12)
    so_far = memory_of(training, 12).text()
    for first in (0, 1, 255, 256, 257, 511, 512, 513, 1024):
        last = next((n for n in (1, 255, 256, 257, 511, 512, 513, 1024) if n > first), len(text))
        so_far.extend(text[first:last])
        assert_same(found_in(so_far), weights_behind(training, text[:last]))


def test_texts_do_not_disturb_one_another():
    training = phrases(0, 200, 12)
    memory = memory_of(training, 12)
    texts = [phrases(seed, 60, 12) for seed in range(3)]
    grown = [memory.text() for _ in texts]
    for place in range(60):
        for text, so_far in zip(texts, grown, strict=True):
            assert_same(found_in(so_far), weights_behind(training, text[:place]))
            so_far.extend(text[place : place + 1])


def test_what_was_found_stays_when_the_text_goes_on():
    so_far = memory_of(noise(0, 200, 12), 12).text()
    so_far.extend(noise(1, 50, 12))
    found = so_far.find()
    kept = found.ids.tolist(), found.weights.tolist()
    later = set()
    for token in noise(2, 50, 12):
        so_far.extend([token])
        later.add(tuple(so_far.find().ids.tolist()[: len(kept[0])]))
    assert len(later) > 10
    assert (found.ids.tolist(), found.weights.tolist()) == kept


@pytest.mark.parametrize("num_threads", [2, 3, 7])
@pytest.mark.parametrize("length", [2, 3, 8, 300])
def test_any_number_of_threads_gives_the_same_to_the_last_bit(num_threads, length):
    memory, text = memory_of(phrases(0, 2000, 12), 12), np.array(phrases(4, length, 12))
    alone, shared = memory.score(text), memory.score(text, num_threads)
    assert [part.tobytes() for part in alone] == [part.tobytes() for part in shared]


def test_two_threads_use_one_memory_at_a_time():
    memory = memory_of(phrases(0, 3000, 12), 12)
    texts = [phrases(seed, 2000, 12) for seed in range(4)]

    def work(text: list[int]) -> tuple[list[bytes], list[tuple[dict[int, float], float]]]:
        so_far, found = memory.text(), []
        for first in range(0, 2000, 100):
            so_far.extend(text[first : first + 100])
            found.append(found_in(so_far))
        return [part.tobytes() for part in memory.score(np.array(text), 2)], found

    expected = [work(text) for text in texts]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, texts)) == expected


@pytest.mark.parametrize("ids", [[5], [0, -1], [0, 2**31], [2**32]])
def test_ids_outside_of_the_vocabulary_are_refused(ids):
    memory = memory_of([1, 2, 3], 5)
    so_far = memory.text()
    so_far.extend([1])
    with pytest.raises(ValueError, match="expected ids from 0 to 4, got"):
        so_far.extend([2, *ids])
    assert_same(found_in(so_far), weights_behind([1, 2, 3], [1]))
    with pytest.raises(ValueError, match="expected ids from 0 to 4, got"):
        memory.score(np.array([2, *ids]))


@pytest.mark.parametrize("length", [0, 1])
def test_before_the_first_token_nothing_is_known(length):
    memory = memory_of([1, 2, 3], 5)
    weights, totals = memory.score(np.array([1] * length, np.uint16))
    assert (weights.tolist(), totals.tolist()) == ([0.0] * length, [1.0] * length)
    assert found_in(memory.text()) == ({}, 1.0)


def by_documents(memory: NgramMemory, tokens: list[int], separator: int) -> list[list[float]]:
    """`score_documents`, token by token: a separator ends one text, and begins the next."""
    weights, totals, document = [], [], list[int]()
    for place, token in enumerate(tokens):
        document.append(token)
        own_weights, own_totals = memory.score(np.array(document))
        weights.append(own_weights[-1])
        totals.append(own_totals[-1])
        if token == separator and place > 0:
            document = [separator]
    return [weights, totals]


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        [0],
        [0, 0],
        [3, 0],
        [0, 3],
        [1, 2, 3, 1, 2, 0, 1, 2, 3, 0, 0, 1, 2, 3, 1, 2],
        [0, 1, 2, 3, 1, 2, 0, 1, 2, 0],
        phrases(8, 120, 5),
    ],
)
def test_documents_of_a_file_are_scored_apart(tokens):
    memory = memory_of(phrases(0, 300, 5), 5)
    found = memory.score_documents(np.array(tokens, np.uint16), separator=0)
    assert [part.tolist() for part in found] == by_documents(memory, tokens, 0)


def test_without_a_separator_a_file_is_one_document():
    memory, tokens = memory_of(phrases(0, 300, 5), 5), np.array(phrases(1, 90, 5), np.uint16)
    found, expected = memory.score_documents(tokens, None, 2), memory.score(tokens)
    assert [part.tobytes() for part in found] == [part.tobytes() for part in expected]


def test_contexts_reach_from_one_file_into_the_next():
    files = [np.array(part, np.uint16) for part in ([1, 2], [3, 4])]
    found = NgramMemory(NgramIndex.build(files, 5)).score(np.array([1, 2, 3, 4]))
    expected = [weights_behind([1, 2, 3, 4], text)[1] for text in itertools.accumulate([[], [1], [2], [3]])]
    assert found[1].tolist() == pytest.approx(expected, **EXACT)
