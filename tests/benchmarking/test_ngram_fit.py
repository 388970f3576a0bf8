"""The fit of the memory's factors: counts of single orders, the recursion with them, and the descent."""

import math

import numpy as np
import pytest

from benchmarking.ngram_fit import MIXED, Counted, count, factors_of, fit, logs_of, loss
from tests.ngrams.sequences import noise, phrases
from transformerlm.kernels.ngrams_layout import ORDERS
from transformerlm.ngrams import Factors, NgramIndex, NgramMemory

SIZE = 12
FILES = [np.array(phrases(seed, 150, SIZE), np.uint16) for seed in (3, 4)]
TARGETS = sum(len(file) - 1 for file in FILES)


@pytest.fixture(scope="module")
def index() -> NgramIndex:
    return NgramIndex.build([np.array(phrases(0, 600, SIZE), np.uint16)], SIZE)


def some_nats(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).exponential(2.0, TARGETS)


def other_logs() -> np.ndarray:
    return np.random.default_rng(1).uniform(-2, 4, len(MIXED))


@pytest.mark.parametrize("logs", [logs_of(Factors()), other_logs()], ids=["shipped", "others"])
def test_mixing_what_was_counted_is_what_the_memory_does(index, logs):
    nats, memory = some_nats(), NgramMemory(index, factors_of(logs))
    scores = [memory.score_documents(file, 0) for file in FILES]
    weights, totals = (np.concatenate([score[i][1:] for score in scores]) for i in (0, 1))
    counted = count(index, FILES, 0, nats)
    mixed = -np.log((np.exp(-nats) + weights) / totals)
    assert counted.mixed(logs) == pytest.approx(mixed, rel=1e-5)
    expected = math.log(mixed.mean() / nats.mean())
    assert loss([counted, counted], logs) == pytest.approx(expected, rel=1e-6)


def test_counts_of_a_single_order(index):
    counted = count(index, FILES, None, some_nats())
    row, place = MIXED.index(("earlier", 1)), 100
    text = FILES[0].tolist()
    followers = [text[i] for i in range(1, place) if text[i - 1] == text[place - 1]]
    kinds = len(set(followers))
    assert kinds > 1
    assert counted.sizes[row, place - 1] == pytest.approx(len(followers) / kinds)
    assert counted.shares[row, place - 1] == pytest.approx(followers.count(text[place]) / kinds, abs=1e-6)


def test_factors_and_their_logarithms_are_each_others_inverse():
    factors = factors_of(logs_of(Factors()))
    assert factors.training == pytest.approx(Factors().training)
    assert factors.earlier == pytest.approx(Factors().earlier)
    assert tuple(factors.training) == ORDERS


def test_the_fit_is_no_worse_than_any_neighbour(index):
    texts = [count(index, FILES, 0, some_nats(seed)) for seed in (0, 1)]
    start = np.full(len(MIXED), math.log(10.0))
    found = fit(texts, start)
    best = loss(texts, found)
    assert best < loss(texts, start) - 0.02
    for order in range(len(MIXED)):
        for change in (-0.0625, 0.0625):
            trial = found.copy()
            trial[order] += change
            assert loss(texts, trial) > best - 1e-5


def test_counts_that_say_nothing_are_not_trusted():
    targets = np.array(noise(9, 400, 2))
    index = NgramIndex.build([np.array(noise(8, 3000, 2), np.uint16)], 2)
    counted = count(index, [targets], None, np.full(399, math.log(2)))
    start = np.full(len(MIXED), math.log(0.5))
    assert loss([counted], start) > 0.3
    assert loss([counted], fit([counted], start)) < 0.02


def test_every_text_counts_alike(index):
    one = count(index, FILES, 0, some_nats())
    much = Counted(*(np.concatenate([part] * 3, axis=-1) for part in (one.nats, one.shares, one.sizes)))
    other = count(index, FILES, None, some_nats(2))
    logs = other_logs()
    assert loss([one, other], logs) == pytest.approx(loss([much, other], logs))
