"""Sampling in one kernel call, against slow definitions and against the sampling in PyTorch's operations."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformerlm.infer.sampling import Sampling, sample, sample_with_kernel

ROUNDING = 8 * torch.finfo(torch.float32).eps
"""A nucleus may fall short of p by this much in float32, in PyTorch's operations too."""


def slow_draw(logits, uniform, temperature, top_p, top_k):
    """Draw from one row, token by token, in float64."""
    ranked = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if temperature == 0:
        return ranked[0]
    scale = max(temperature, torch.finfo(torch.float32).tiny)
    p = {i: math.exp((logits[i] - logits[ranked[0]]) / scale) for i in ranked[:top_k]}
    wanted, nucleus, total = (top_p - ROUNDING if top_p < 1 else 1) * sum(p.values()), [], 0.0
    for i in p:
        if nucleus and total >= wanted:
            break
        nucleus.append(i)
        total += p[i]
    target, running = uniform * total, 0.0
    for i in sorted(nucleus):
        running += p[i]
        if running > target and p[i] > 0:
            return i
    return None


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 9),
    width=st.sampled_from([1, 2, 3, 31, 257, 5000]),
    spread=st.sampled_from([0.01, 1.0, 5.0, 60.0]),
    steps=st.sampled_from([None, 1, 4]),
    temperature=st.sampled_from([0.0, 1e-40, 0.05, 0.8, 1.0, 50.0]),
    top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.9, 0.999, 1.0]),
    top_k=st.sampled_from([None, 1, 2, 40, 10_000]),
)
def test_it_draws_what_the_definition_draws(seed, rows, width, spread, steps, temperature, top_p, top_k):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(rows, width + 3, generator=generator)
    logits = logits if steps is None else (logits * steps).round() / steps  # many equal ones
    uniforms = torch.rand(rows, generator=generator)
    some = logits[:, :width]  # rows with a stride, as where a model has more rows than the tokenizer has ids
    found = sample_with_kernel(some, Sampling(temperature, top_p, top_k), uniforms)
    pairs = zip(some.tolist(), uniforms.tolist(), strict=True)
    assert found.tolist() == [slow_draw(*pair, temperature, top_p, top_k) for pair in pairs]


def test_it_draws_what_sampling_draws():
    generator = torch.Generator().manual_seed(1)
    logits, uniforms = 3 * torch.randn(500, 300, generator=generator), torch.rand(500, generator=generator)
    for temperature, top_p, top_k in ((1.0, 0.9, None), (0.7, 1.0, 20), (2.0, 0.5, 7), (0.0, 1.0, None)):
        found = sample_with_kernel(logits, Sampling(temperature, top_p, top_k), uniforms)
        assert found.equal(sample(logits, temperature, top_p, top_k, uniforms=uniforms))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_no_numbers_give_no_id(temperature):
    logits = torch.zeros(5, 40)
    logits[1, 7] = math.nan
    logits[2, 39] = math.inf
    logits[3] = -math.inf
    logits[4, 1:] = -math.inf
    found = sample_with_kernel(logits, Sampling(temperature), torch.full((5,), 0.99))
    assert found.tolist()[1:] == [-1, -1, -1, 0]
    assert found[0] >= 0


def test_what_has_no_probability_is_never_drawn():
    logits = torch.full((1, 50), -math.inf)
    logits[0, [3, 20]] = 0.0
    below_one = math.nextafter(1, 0)
    for uniform, wanted in ((0.0, 3), (0.49, 3), (0.51, 20), (below_one, 20)):
        assert sample_with_kernel(logits, Sampling(), torch.tensor([uniform])).item() == wanted


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(top_p=0.7), Sampling(top_k=4), Sampling(min_p=0.2), Sampling(temperature=0.5)],
    ids=str,
)
def test_frequencies_are_those_of_the_distribution(sampling):
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -3.0])
    number = 20_000
    uniforms = (
        torch.arange(number) + 0.5
    ) / number  # evenly spaced: each id is drawn in proportion, within one draw
    found = sample_with_kernel(logits.expand(number, -1).contiguous(), sampling, uniforms)
    p = torch.softmax(logits.double() / sampling.temperature, -1)
    p = torch.where(p >= p.sort(descending=True).values[: sampling.top_k][-1], p, 0)
    p = p / p.sum()
    kept = [i for i in range(6) if p[p > p[i]].sum() < sampling.top_p]  # p falls with the id
    p = torch.where(torch.isin(torch.arange(6), torch.tensor(kept)), p, 0)
    p = torch.where(p >= sampling.min_p * p.max(), p, 0)
    counts = torch.bincount(found, minlength=6)
    assert (counts - number * p / p.sum()).abs().max() <= 1
