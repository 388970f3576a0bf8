import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformerlm.infer.sampling import draw, sample, top_k_filter, top_p_filter, uniform_numbers

WEIGHTS = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any)
"""Unnormalised probabilities as whole numbers, with plenty of ties and zeros."""
SIXTEENTHS = st.integers(1, 16)


def ranked(weights):
    """Ids by falling weight; of equals, the lowest id first."""
    return sorted(range(len(weights)), key=lambda i: (-weights[i], i))


def nucleus(weights, p: Fraction) -> set[int]:
    """The definition, in exact arithmetic."""
    kept, total = set(), 0
    for i in ranked(weights):
        if kept and total >= p * sum(weights):
            break
        kept.add(i)
        total += weights[i]
    return kept


def probabilities_of(weights) -> torch.Tensor:
    return torch.tensor(weights, dtype=torch.float64) / sum(weights)


def support(row: torch.Tensor) -> set[int]:
    return set(row.nonzero().flatten().tolist())


def restricted(weights, kept) -> torch.Tensor:
    total = sum(weights[i] for i in kept)
    return torch.tensor([weights[i] / total if i in kept else 0.0 for i in range(len(weights))])


@settings(deadline=None)
@given(WEIGHTS, SIXTEENTHS)
def test_top_p_is_the_smallest_set_that_reaches_p(weights, sixteenths):
    kept = nucleus(weights, Fraction(sixteenths, 16))
    filtered = top_p_filter(probabilities_of(weights), sixteenths / 16)
    torch.testing.assert_close(filtered, restricted(weights, kept).double())


@settings(deadline=None)
@given(WEIGHTS, SIXTEENTHS, SIXTEENTHS)
def test_top_p_is_monotone_in_p(weights, one, other):
    low, high = sorted([one, other])
    smaller = support(top_p_filter(probabilities_of(weights), low / 16))
    assert smaller <= support(top_p_filter(probabilities_of(weights), high / 16))
    assert ranked(weights)[0] in smaller


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_top_p_at_sums_that_do_not_round_evenly(dtype):
    # 0.4 + 0.3 + 0.2 is a little less than 0.9 in float64; the set reaches 0.9 all the same.
    filtered = top_p_filter(torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=dtype), 0.9)
    assert filtered.dtype == dtype
    if dtype != torch.bfloat16:
        torch.testing.assert_close(filtered, torch.tensor([0, 4, 2, 3], dtype=dtype) / 9)


@pytest.mark.parametrize("spread", [0.1, 1, 5])
def test_top_p_of_a_real_vocabulary(spread):
    torch.manual_seed(0)
    probabilities = torch.softmax(spread * torch.randn(3, 7, 10_000), -1)
    filtered = top_p_filter(probabilities, 0.9)
    descending = probabilities.double().sort(-1, descending=True).values
    kept = (descending.cumsum(-1) - descending < 0.9).sum(-1)
    # The sums are in float32 here, and a token more or less may lie within their rounding.
    assert ((filtered > 0).sum(-1) - kept).abs().max() <= 1
    torch.testing.assert_close(filtered.sum(-1), torch.ones(3, 7))
    inside = filtered > 0
    assert (
        probabilities.masked_fill(~inside, 1).amin(-1) >= probabilities.masked_fill(inside, 0).amax(-1)
    ).all()


def test_top_p_keeps_the_lowest_ids_of_equals():
    assert support(top_p_filter(torch.full((8,), 0.125), 0.5)) == {0, 1, 2, 3}
    assert support(top_p_filter(torch.full((8,), 0.125), 1e-9)) == {0}


@settings(deadline=None)
@given(WEIGHTS, st.integers(1, 40))
def test_top_k_keeps_the_k_likeliest(weights, k):
    filtered = top_k_filter(probabilities_of(weights), k)
    torch.testing.assert_close(filtered, restricted(weights, ranked(weights)[:k]).double())


def test_filters_work_on_each_row_alone():
    rows = torch.softmax(torch.randn(2, 3, 50), -1)
    for function, parameter in [(top_p_filter, 0.7), (top_k_filter, 5)]:
        alone = [function(row, parameter) for row in rows.flatten(0, 1)]
        torch.testing.assert_close(
            function(rows, parameter).flatten(0, 1), torch.stack(alone), rtol=0, atol=0
        )


@settings(deadline=None)
@given(WEIGHTS, st.integers(0, 999))
def test_a_draw_is_the_inverse_of_the_cumulative_distribution(weights, thousandths):
    number, total, expected = Fraction(2 * thousandths + 1, 2000), Fraction(0), None
    for i, weight in enumerate(weights):
        total += Fraction(weight, sum(weights))
        if total > number:
            expected = i
            break
    assert (
        draw(probabilities_of(weights), torch.tensor(float(number), dtype=torch.float64)).item() == expected
    )


@pytest.mark.parametrize("zeros", [[], [0, 1, 2], [9998, 9999], range(0, 10_000, 2)])
def test_the_ends_of_the_distribution_are_safe(zeros):
    probabilities = torch.softmax(torch.randn(10_000), -1)
    probabilities[list(zeros)] = 0
    numbers = torch.tensor([0.0, 2**-149, 0.5, 1 - 2**-24, 1.0])
    ids = draw(probabilities.expand(5, -1), numbers)
    assert (probabilities[ids] > 0).all()
    possible = probabilities.nonzero().flatten()
    assert ids[0] == possible[0]
    assert ids[-1] >= possible[-50]


def test_frequencies_follow_the_distribution():
    torch.manual_seed(0)
    num_draws, logits = 40_000, torch.tensor([2.0, 1.0, 0.0, 0.5, -1.0, 1.0, -4.0])
    for temperature, top_p, top_k in [(1.0, 1.0, None), (0.7, 0.8, None), (2.0, 1.0, 3), (1.3, 0.9, 5)]:
        ids = sample(logits.expand(num_draws, -1), temperature, top_p, top_k)
        expected = torch.softmax(logits.double() / temperature, -1)
        if top_k:
            expected = expected * (expected >= expected.topk(top_k).values[-1])
        expected = expected / expected.sum()
        kept = nucleus(expected.tolist(), Fraction(top_p))
        expected = restricted(expected.tolist(), kept).double() * num_draws
        counts = torch.bincount(ids, minlength=7).double()
        assert support(counts) == kept
        possible = expected > 0
        chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum().item()
        # Chi-square with at most 6 degrees of freedom exceeds 22.5 once in a thousand times.
        assert chi_square < 22.5


def test_temperature_zero_takes_the_best_and_of_equals_the_first():
    logits = torch.tensor([[0.0, 3.0, 3.0], [-1.0, -2.0, -3.0]])
    assert sample(logits, temperature=0).tolist() == [1, 0]


def test_tiny_temperatures_approach_greedy_without_overflow():
    logits = torch.randn(20, 100) * 100
    for temperature in [1e-3, 1e-30, 5e-324]:
        assert sample(logits, temperature).tolist() == logits.argmax(-1).tolist()


def test_huge_logits_and_impossible_tokens():
    logits = torch.tensor([1e30, -math.inf, 1e30, -math.inf])
    drawn = {sample(logits, uniforms=torch.tensor(number)).item() for number in [0.0, 0.3, 0.7, 0.999]}
    assert drawn == {0, 2}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_reported(temperature):
    logits = torch.zeros(3, 5)
    logits[1, 2] = math.nan
    for top_p, top_k in [(1.0, None), (0.9, None), (1.0, 2)]:
        ids = sample(logits, temperature, top_p, top_k, uniforms=torch.full((3,), 0.5))
        assert (ids < 0).tolist() == [False, True, False]


def test_each_row_depends_on_its_own_number_only():
    torch.manual_seed(0)
    logits, numbers = torch.randn(6, 300), torch.rand(6)
    together = sample(logits, 0.9, 0.9, 100, uniforms=numbers)
    alone = [sample(logits[i], 0.9, 0.9, 100, uniforms=numbers[i]).item() for i in range(6)]
    assert together.tolist() == alone
    others = torch.rand(6)
    others[2] = numbers[2]
    assert sample(logits, 0.9, 0.9, 100, uniforms=others)[2] == together[2]


def test_a_generator_makes_draws_repeatable():
    logits = torch.randn(50, 300)
    draws = [sample(logits, generator=torch.Generator().manual_seed(seed)).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    state = torch.get_rng_state()
    sample(logits, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)


def test_half_precision_logits_are_sampled_in_float32():
    logits = torch.randn(100, 5000).bfloat16()
    numbers = torch.rand(100)
    expected = sample(logits.float(), 0.8, 0.9, uniforms=numbers)
    assert torch.equal(sample(logits, 0.8, 0.9, uniforms=numbers), expected)


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": math.nan}, "top_p"),
        ({"top_k": 0}, "top_k"),
    ],
)
def test_a_parameter_outside_its_range_is_named(parameters, key):
    with pytest.raises(ValueError, match=f"^{key}: expected .* got "):
        sample(torch.zeros(3), **parameters)


def test_random_numbers_are_a_function_of_seed_and_row():
    first = uniform_numbers(seed=3, row=5, count=1000)
    assert first.dtype == np.float32
    assert np.array_equal(uniform_numbers(3, 5, 10), first[:10])
    for seed, row in [(3, 6), (4, 5), (5, 3), (2**70, 5)]:
        assert not np.isin(uniform_numbers(seed, row, 10), first).any()
    assert first.min() >= 0
    assert first.max() < 1
    assert abs(first.mean() - 0.5) < 0.03
