"""The order of several corpora, against sequences taken one after the other."""

import heapq

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.data.interleave import Interleaving

WEIGHTS = st.lists(st.integers(1, 10) | st.integers(1, 10**6), min_size=1, max_size=9)


def shares_of(weights):
    return [weight / sum(weights) for weight in weights]


def one_by_one(shares, number):
    """The corpora of the first sequences, from a heap of due times."""
    heap = [(0.5 / share, corpus, 0) for corpus, share in enumerate(shares)]
    heapq.heapify(heap)
    found = []
    for _ in range(number):
        _, corpus, place = heapq.heappop(heap)
        found.append(corpus)
        heapq.heappush(heap, ((place + 1 + 0.5) / shares[corpus], corpus, place + 1))
    return found


@given(WEIGHTS, st.integers(0, 300), st.integers(0, 60))
def test_it_is_the_order_of_due_times(weights, first, number):
    shares = shares_of(weights)
    expected = one_by_one(shares, first + number)
    found, before = Interleaving(shares).corpora(first, number)
    assert before.tolist() == np.bincount(expected[:first], minlength=len(shares)).tolist()
    assert found.tolist() == expected[first:]


@given(WEIGHTS, st.integers(0, 10**9))
def test_the_shares_hold_at_every_moment(weights, number):
    shares = np.array(shares_of(weights))
    counts = Interleaving(shares).counts(number)
    assert counts.sum() == number
    deviation = 0.5 + shares * max(0, len(shares) - 2) / 2
    assert (np.abs(counts - shares * number) <= deviation + 1e-6).all()


@given(WEIGHTS, st.integers(0, 10**12), st.integers(1, 300), st.integers(1, 300))
def test_parts_are_parts_of_the_whole(weights, first, number, later):
    order = Interleaving(shares_of(weights))
    whole, before = order.corpora(first, number + later)
    start, _ = order.corpora(first, number)
    rest, between = order.corpora(first + number, later)
    np.testing.assert_array_equal(whole, np.concatenate([start, rest]))
    np.testing.assert_array_equal(between, before + np.bincount(start, minlength=len(weights)))


def test_many_corpora_and_tiny_shares():
    order = Interleaving(shares_of([10**9, *[1] * 500]))
    counts = order.counts(10**10)
    assert counts.sum() == 10**10
    assert set(counts[1:].tolist()) == {10}
