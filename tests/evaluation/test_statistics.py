import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.evaluation.statistics import DocumentScores, Estimate, Perplexity, difference, ratio


def documents(seed, number):
    """Nats and tokens of documents of very different lengths, some harder than others."""
    random = np.random.default_rng(seed)
    tokens = np.ceil(random.lognormal(4, 1, number))
    return tokens * random.normal(3, 0.5, number) + random.normal(0, 5, number), tokens


def scores(nats, tokens, num_bytes=None):
    tokens = np.asarray(tokens, np.int64)
    num_bytes = 4 * tokens if num_bytes is None else np.asarray(num_bytes, np.int64)
    return DocumentScores(np.asarray(nats, np.float64), tokens, num_bytes, ["a.txt"] * len(tokens))


def test_of_equal_lengths_it_is_the_standard_error_of_a_mean():
    numerators = np.random.default_rng(0).normal(size=50)
    found = ratio(numerators, np.full(50, 2.0))
    assert found.value == pytest.approx(numerators.mean() / 2)
    assert found.standard_error == pytest.approx(numerators.std(ddof=1) / 2 / math.sqrt(50))


def test_leaving_out_one_document_at_a_time_tells_the_same():
    nats, tokens = documents(0, 2000)
    without = (nats.sum() - nats) / (tokens.sum() - tokens)
    jackknife = math.sqrt((len(nats) - 1) * np.square(without - without.mean()).mean())
    assert ratio(nats, tokens).standard_error == pytest.approx(jackknife, rel=0.01)


def test_drawing_the_documents_again_tells_the_same():
    nats, tokens = documents(1, 500)
    drawn = np.random.default_rng(0).integers(500, size=(4000, 500))
    bootstrap = (nats[drawn].sum(1) / tokens[drawn].sum(1)).std(ddof=1)
    assert ratio(nats, tokens).standard_error == pytest.approx(bootstrap, rel=0.05)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    # Hardness is independent of length here, so that the truth is the mean hardness.
    intervals = [ratio(*documents(seed, 300)).interval() for seed in range(2000)]
    share = np.mean([low <= 3 <= high for low, high in intervals])
    assert 0.93 < share < 0.965  # 0.95 with a standard error of 0.005, and a little less for 300 documents


@given(st.permutations(range(20)), st.integers(1, 8))
def test_order_plays_no_part_and_units_only_scale(order, unit):
    nats, tokens = documents(2, 20)
    found, other = ratio(nats, tokens), ratio(unit * nats[order], tokens[order])
    assert other.value == pytest.approx(unit * found.value)
    assert other.standard_error == pytest.approx(unit * found.standard_error)


def test_one_document_has_no_standard_error():
    found = ratio(np.array([3.0]), np.array([2]))
    assert found.value == 1.5
    assert math.isnan(found.standard_error)
    assert math.isnan(found.num_standard_errors)
    assert all(map(math.isnan, found.interval()))
    assert math.isnan(Perplexity.of(found).low)


def test_a_document_without_tokens_changes_no_number_but_that_of_documents():
    nats, tokens = documents(3, 100)
    found, more = ratio(nats, tokens), ratio(np.append(nats, 0.0), np.append(tokens, 0))
    assert more.value == found.value
    assert more.standard_error == pytest.approx(found.standard_error * math.sqrt(101 / 100 * 99 / 100))


def test_scores_are_ratios_over_all_documents():
    found = scores([10.0, 30.0], [5, 5], [20, 60])
    assert found.loss.value == 4
    assert found.perplexity.value == pytest.approx(math.exp(4))
    assert found.perplexity.low == pytest.approx(math.exp(4 - 1.959964 * found.loss.standard_error))
    assert found.bits_per_byte.value == pytest.approx(40 / math.log(2) / 80)
    assert len(found) == 2


def test_a_hopeless_loss_has_an_infinite_perplexity():
    assert Perplexity.of(Estimate(1e4, 1.0)) == Perplexity(math.inf, math.inf, math.inf)


def pair(seed, number, gap=0.02):
    """Two models to which the same documents are hard; the first needs `gap` nats a token less."""
    nats, tokens = documents(seed, number)
    noise = np.random.default_rng(seed + 10**6).normal(0, 0.05, number)
    return scores(nats - tokens * (gap + noise), tokens), scores(nats, tokens)


def test_a_difference_is_that_of_the_two_numbers_and_far_surer_than_both():
    first, second = pair(0, 200)
    found = difference(first, second, same_tokens=True)
    assert found.loss.value == pytest.approx(first.loss.value - second.loss.value)
    assert found.bits_per_byte.value == pytest.approx(first.bits_per_byte.value - second.bits_per_byte.value)
    unpaired = math.hypot(first.loss.standard_error, second.loss.standard_error)
    assert found.loss.standard_error < unpaired / 8
    assert found.perplexity_factor.value == pytest.approx(first.perplexity.value / second.perplexity.value)
    back = difference(second, first, same_tokens=True)
    assert (back.loss.value, back.loss.standard_error) == (-found.loss.value, found.loss.standard_error)


def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says():
    intervals = [difference(*pair(seed, 300), same_tokens=True).loss.interval() for seed in range(2000)]
    share = np.mean([low <= -0.02 <= high for low, high in intervals])
    assert 0.93 < share < 0.965


def test_a_model_does_not_differ_from_itself():
    first, _ = pair(1, 50)
    found = difference(first, first, same_tokens=True).bits_per_byte
    assert (found.value, found.standard_error) == (0, 0)
    assert math.isnan(found.num_standard_errors)


def test_other_tokens_leave_bits_per_byte_alone_to_compare():
    first, second = pair(2, 50)
    coarser = scores(second.nats, second.num_tokens // 2 + 1, second.num_bytes)
    found = difference(first, coarser, same_tokens=False)
    assert found.loss is None
    assert found.perplexity_factor is None
    assert found.bits_per_byte == difference(first, second, same_tokens=True).bits_per_byte
