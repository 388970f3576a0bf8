"""The definition: its weights are those of the recursion that it states, for any model's probabilities."""

import random
from collections import Counter

import pytest

from tests.ngrams.sequences import cases, noise, phrases
from transformerlm.kernels.ngrams_layout import LONGEST, MAX_OCCURRENCES, ORDERS
from transformerlm.ngrams import Factors
from transformerlm.ngrams.factors import LARGEST
from transformerlm.ngrams.reference import sorted_places, weights_behind

IGNORED = dict.fromkeys(ORDERS, LARGEST)


def recursion(probabilities: list[float], training: list[int], text: list[int], factors: Factors):
    """p_k of the docstring, step by step, for texts in which nothing occurs too often."""
    for order in (1, *ORDERS):
        for tokens, factor in ((training, factors.training.get(order)), (text, factors.earlier[order])):
            context = text[-order:]
            counts = Counter(
                tokens[end] for end in range(order, len(tokens)) if tokens[end - order : end] == context
            )
            if factor is not None and counts:
                held_back = factor * len(counts)
                probabilities = [
                    (counts[token] + held_back * shorter) / (counts.total() + held_back)
                    for token, shorter in enumerate(probabilities)
                ]
    return probabilities


def some_probabilities(size: int) -> list[float]:
    rng = random.Random(size)
    parts = [rng.random() ** 9 for _ in range(size)]  # some of them tiny
    return [part / sum(parts) for part in parts]


def mixture(probabilities: list[float], training: list[int], text: list[int], factors: Factors):
    weights, total = weights_behind(training, text, factors)
    return [(own + weights.get(token, 0.0)) / total for token, own in enumerate(probabilities)]


def own_factors(seed: int) -> Factors:
    rng = random.Random(seed)
    return Factors(
        {order: rng.uniform(0.1, 40) for order in ORDERS},
        {order: rng.uniform(0.1, 40) for order in (1, *ORDERS)},
    )


SMALL = {name: case for name, case in cases().items() if case[2] < 1000}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("factors", [Factors(), own_factors(0)], ids=["shipped", "others"])
def test_the_mixture_is_that_of_the_recursion(name, factors):
    training, text, vocab_size = SMALL[name]
    own = some_probabilities(vocab_size)
    for end in {0, 1, 2, 31, 32, 33, len(text) // 2, len(text)}:
        before = text[:end]
        expected = recursion(own, training, before, factors)
        assert mixture(own, training, before, factors) == pytest.approx(expected, rel=1e-9, abs=0)
        assert sum(expected) == pytest.approx(1)


def test_the_total_is_one_and_the_weights():
    weights, total = weights_behind(phrases(0, 300, 12), phrases(5, 90, 12))
    assert min(weights.values()) > 0
    assert total == pytest.approx(1 + sum(weights.values()))


def test_without_a_text_nothing_is_known():
    assert weights_behind([1, 2, 3], []) == ({}, 1.0)


def test_of_many_occurrences_in_the_training_text_evenly_spaced_ones_count():
    context = noise(0, LONGEST, 5)
    training = [token for number in range(1200) for token in (*context, 6 + number // 600)]
    factors = Factors(IGNORED | {LONGEST: 1.0}, {1: LARGEST, **IGNORED})
    weights, total = weights_behind(training, context, factors)
    each = MAX_OCCURRENCES / 2 / 2  # half of them, of two different tokens
    assert (weights[6], weights[7], total) == pytest.approx((each, each, 1 + 2 * each))


def test_of_many_occurrences_in_a_text_the_latest_count():
    text = [0, 1] * 100 + [0, 2] * MAX_OCCURRENCES + [0]
    factors = Factors(IGNORED, {1: 2.0, **IGNORED})
    weights, total = weights_behind([], text, factors)
    assert weights[2] == pytest.approx(MAX_OCCURRENCES / 2)
    assert total == pytest.approx(1 + MAX_OCCURRENCES / 2)
    assert 1 not in weights


def test_the_places_are_sorted_by_what_is_before_them():
    tokens = [2, 1, 2, 1, 0, 1]
    contexts = {place: tokens[:place][::-1] for place in sorted_places(tokens)}
    assert [*contexts.values()] == sorted(contexts.values())
    assert contexts.keys() == set(range(1, 6))


@pytest.mark.parametrize(
    "orders",
    [
        {"training": {2: 1.0}},
        {"earlier": dict.fromkeys(ORDERS, 1.0)},
        {"training": dict.fromkeys(reversed(ORDERS), 1.0)},
    ],
)
def test_factors_of_other_orders_are_refused(orders):
    with pytest.raises(ValueError, match="expected factors for"):
        Factors(**orders)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_factors_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match="expected a factor from"):
        Factors(IGNORED | {4: value})
