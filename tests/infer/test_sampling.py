import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformerlm.config import GenerationConfig
from transformerlm.infer.sampling import (
    RandomStream,
    Sampling,
    draw,
    log_probabilities,
    min_p_filter,
    repetition_penalty,
    sample,
    sample_rows,
    top_k_filter,
    top_p_filter,
)

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


def all_at_once(seed, row, count):
    """Random numbers of a stream, from numpy in one call."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, row]))).random(
        count, np.float32
    )


def test_random_numbers_are_a_function_of_seed_and_row():
    first = RandomStream(seed=3, row=5).next(1000)
    assert first.dtype == np.float32
    assert np.array_equal(first, all_at_once(3, 5, 1000))
    for size in (1, 3, 64):  # numpy makes two numbers of one draw: none may be lost between calls
        stream = RandomStream(3, 5)
        assert np.array_equal(np.concatenate([stream.next(size) for _ in range(15)]), first[: 15 * size])
    for seed, row in [(3, 6), (4, 5), (5, 3), (2**70, 5)]:
        assert not np.isin(RandomStream(seed, row).next(10), first).any()
    assert first.min() >= 0
    assert first.max() < 1
    assert abs(first.mean() - 0.5) < 0.03


@settings(deadline=None)
@given(WEIGHTS, SIXTEENTHS | st.just(0))
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(weights, sixteenths):
    kept = {i for i, weight in enumerate(weights) if 16 * weight >= sixteenths * max(weights)}
    # Sixteenths of whole numbers are exact: no tie is decided by rounding.
    unnormalised = torch.tensor(weights, dtype=torch.float64)
    torch.testing.assert_close(
        min_p_filter(unnormalised, sixteenths / 16), restricted(weights, kept).double()
    )


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-40, 40), st.booleans()), min_size=1, max_size=30),
    st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0]),
)
def test_the_penalty_makes_what_was_seen_less_likely_whatever_its_sign(tokens, penalty):
    logits, seen = (torch.tensor(column) for column in zip(*tokens, strict=True))
    expected = [
        (logit / penalty if logit > 0 else logit * penalty) if was_seen else logit
        for logit, was_seen in tokens
    ]
    found = repetition_penalty(logits.double(), seen, penalty)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_log_probabilities_are_those_of_the_softmax():
    logits = torch.randn(5, 7, 100, dtype=torch.float64) * 10
    ids = torch.randint(100, (5, 7))
    expected = torch.log_softmax(logits, -1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(log_probabilities(logits, ids), expected)
    in_float32 = log_probabilities(logits.bfloat16(), ids)
    assert in_float32.dtype == torch.float32


def slow_distribution(logits, seen, sampling):
    """What a token is drawn from, one row in plain Python, step by step in the documented order."""
    penalty, scores = sampling.repetition_penalty, []
    for logit, was_seen in zip(logits.tolist(), seen.tolist(), strict=True):
        scores.append((logit / penalty if logit > 0 else logit * penalty) if was_seen else logit)
    best = max(scores)
    weights = [math.exp((score - best) / sampling.temperature) for score in scores]
    kept = ranked(weights)[: sampling.top_k]
    total = sum(weights[i] for i in kept)
    nucleus_of_kept, reached = [], 0.0
    for i in kept:
        if reached >= sampling.top_p * total:
            break
        nucleus_of_kept.append(i)
        reached += weights[i]
    kept = {i for i in nucleus_of_kept if weights[i] >= sampling.min_p * max(weights)}
    return restricted(weights, kept).double()


SAMPLINGS = [
    Sampling(),
    Sampling(min_p=0.05),
    Sampling(repetition_penalty=1.3),
    Sampling(0.7, 0.9, 50, 0.02, 1.2),
    Sampling(1.8, 0.95, None, 0.1, 0.8),
    Sampling(1.0, 1.0, 5, 0.3, 1.0),
    Sampling(0.5, 0.5, 3, 0.0, 2.0),
]


def distribution(logits, seen, sampling):
    """What `sample_rows` draws from, found by drawing at the ends of every token's stretch."""
    numbers = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    rows = logits.expand(len(numbers), -1)
    ids = sample_rows(rows, sampling, numbers, seen.expand(len(numbers), -1))
    return torch.bincount(ids, minlength=len(logits)).double() / len(numbers)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_everything_together_is_the_slow_definition(sampling):
    torch.manual_seed(1)
    logits, seen = 2 * torch.randn(40, dtype=torch.float64), torch.rand(40) < 0.4
    expected = slow_distribution(logits, seen, sampling)
    found = distribution(logits, seen, sampling)
    assert support(found) <= support(expected)
    # The draws are at 20,000 even places, so that a probability is found within one of them.
    torch.testing.assert_close(found, expected, rtol=0, atol=1.01 / 20_000)


@pytest.mark.slow  # imports transformers
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_everything_together_is_what_hugging_face_samples_from(sampling):
    peers = pytest.importorskip("transformers.generation.logits_process")
    torch.manual_seed(2)
    logits, ids = 2 * torch.randn(40, dtype=torch.float64), torch.randint(40, (1, 17))
    processors = [peers.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)]
    processors += [peers.TemperatureLogitsWarper(sampling.temperature)]
    processors += [peers.TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    processors += [peers.TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    processors += [peers.MinPLogitsWarper(sampling.min_p)] if sampling.min_p else []
    scores = logits.unsqueeze(0).clone()
    for process in processors:
        scores = process(ids, scores)
    seen = torch.zeros(40, dtype=torch.bool).index_fill_(0, ids[0], True)
    expected = torch.softmax(scores[0], -1)
    torch.testing.assert_close(slow_distribution(logits, seen, sampling), expected)
    torch.testing.assert_close(distribution(logits, seen, sampling), expected, rtol=0, atol=1.01 / 20_000)


def test_greedy_takes_the_penalty_into_account():
    logits, seen = torch.tensor([[3.0, 2.0], [-1.0, -2.0]]), torch.tensor([[True, False], [True, False]])
    sampling = Sampling(temperature=0, repetition_penalty=4)
    assert sample_rows(logits, sampling, None, seen).tolist() == [1, 1]
    assert sample_rows(logits, sampling, None, ~seen).tolist() == [0, 0]
    assert sample_rows(logits, sampling, None).tolist() == [0, 0]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_row_without_numbers_is_reported_and_the_others_drawn(sampling):
    logits, seen = torch.randn(3, 20), torch.rand(3, 20) < 0.5
    logits[1, 7] = math.nan
    ids = sample_rows(logits, sampling, torch.full((3,), 0.5), seen)
    assert (ids < 0).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("min_p", value) for value in (-0.1, 1.1, math.nan)],
        *[("repetition_penalty", value) for value in (0.0, -1.0, math.inf, math.nan)],
    ],
)
def test_each_setting_has_its_range(key, value):
    with pytest.raises(ValueError, match=f"^{key}: expected .* got "):
        Sampling(**{key: value})
    with pytest.raises(ValueError, match=f"^{key}: expected .* got "):
        if key == "min_p":
            min_p_filter(torch.ones(3), value)
        else:
            repetition_penalty(torch.ones(3), torch.ones(3, dtype=torch.bool), value)


def test_a_sampling_has_the_values_of_a_config():
    values = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.5}
    assert Sampling.from_config(GenerationConfig(**values)) == Sampling(**values)
    assert set(Sampling.field_names()) == set(values)
