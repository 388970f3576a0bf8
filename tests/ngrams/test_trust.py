"""How far the memory is trusted in a text that is scored, against the definition."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ngrams.sequences import noise, phrases
from transformerlm.ngrams import NgramIndex, NgramMemory, Trust
from transformerlm.ngrams.reference import probabilities_along
from transformerlm.ngrams.trust import FIRST_SHARES, RETURNED, STRENGTHS

SIZE = 12


def memory_of(training: list[int]) -> NgramMemory:
    return NgramMemory(NgramIndex.build([np.array(training, np.uint16)], SIZE))


def nats_of(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).exponential(2.0, number)


@pytest.mark.parametrize("text", [phrases(3, 90, SIZE), noise(4, 90, SIZE)], ids=["phrases", "noise"])
@pytest.mark.parametrize("cuts", [(0, 89), (0, 1, 1, 40, 89)])
def test_nats_are_those_of_the_definition(text, cuts):
    training, nats = phrases(0, 300, SIZE), nats_of(89)
    weights, totals = (part[1:] for part in memory_of(training).score(np.array(text)))
    trust, found = Trust(), []
    for first, last in itertools.pairwise(cuts):
        found += trust.mixed_nats(nats[first:last], weights[first:last], totals[first:last]).tolist()
    expected = probabilities_along(training, text, np.exp(-nats).tolist())
    assert found == pytest.approx([-math.log(probability) for probability in expected], rel=1e-9)


def test_documents_of_a_file_are_trusted_apart():
    memory, tokens = memory_of(phrases(0, 300, SIZE)), np.array([0, *phrases(1, 50, SIZE), 0, 3, 1, 2, 0, 5])
    nats = nats_of(len(tokens) - 1)
    ends = [place for place, token in enumerate(tokens) if token == 0 and place > 0]
    found = memory.mixed_nats(nats, tokens, separator=0)
    for first, last in zip([0, *ends], [*ends, len(tokens) - 1], strict=True):
        weights, totals = (part[1:] for part in memory.score(tokens[first : last + 1]))
        alone = Trust().mixed_nats(nats[first:last], weights, totals)
        assert found[first:last].tolist() == alone.tolist()


def test_a_text_without_separators_is_one_document():
    memory, tokens = memory_of(phrases(0, 300, SIZE)), np.array(phrases(1, 60, SIZE))
    weights, totals = (part[1:] for part in memory.score(tokens))
    nats = nats_of(59)
    assert (
        memory.mixed_nats(nats, tokens, None).tolist() == Trust().mixed_nats(nats, weights, totals).tolist()
    )


@given(st.integers(0, 1000), st.integers(1, 400))
def test_no_text_costs_more_than_a_little_more_than_with_one_strength_alone(seed, number):
    generator = np.random.default_rng(seed)
    nats, rest = generator.exponential(3.0, number), generator.exponential(20.0, number)
    weights = rest * generator.uniform(0, 1, number) * generator.integers(0, 2, number)
    mixed = Trust().mixed_nats(nats, weights, 1 + rest).sum()
    for strength, share in zip(STRENGTHS, FIRST_SHARES, strict=True):
        alone = -np.log((np.exp(-nats) + strength * weights) / (1 + strength * rest)).sum()
        assert mixed <= alone - math.log(share) - (number - 1) * math.log(1 - RETURNED) + 1e-9


def test_a_memory_that_misleads_is_soon_left_out():
    """Each token is another than those that followed before: with the memory alone it costs 2.4 nats more."""
    nats, weights, totals = np.full(200, 2.0), np.zeros(200), np.full(200, 11.0)
    found = Trust().mixed_nats(nats, weights, totals)
    assert found[0] > 3
    assert found[50:].max() < 2.02


def test_the_strength_gives_the_next_token_the_mixture():
    trust = Trust()
    trust.mixed_nats(nats_of(30), nats_of(30, 1), 1 + 20 * nats_of(30, 2))
    for total in (1.0, 1.5, 1e3, 1e200):
        weight = 0.3 * (total - 1)
        strength = trust.strength(total)
        of_strengths = [(0.2 + s * weight) / (1 + s * (total - 1)) for s in STRENGTHS]
        expected = sum(share * own for share, own in zip(trust.shares, of_strengths, strict=True))
        assert (0.2 + strength * weight) / (1 + strength * (total - 1)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("weight", "total"), [(0.0, 1.0), (0.0, 1e43), (3.0, 4.0), (1e300, 1e300)])
def test_nats_of_unlikely_targets_are_exact(weight, total):
    for nats in (0.0, 1e-9, 1.0, 100.0, 800.0, 1e6):
        (found,) = Trust().mixed_nats(np.array([nats]), np.array([weight]), np.array([total]))
        rest = total - 1
        logs = [
            math.log(share)
            + np.logaddexp(-nats, math.log(s) + math.log(weight) if s * weight else -math.inf)
            - math.log1p(s * rest if s * rest < 1e308 else rest)
            for s, share in zip(STRENGTHS, FIRST_SHARES, strict=True)
        ]
        assert found == pytest.approx(-np.logaddexp.reduce(logs), rel=1e-9, abs=1e-9)


def test_float32_is_taken_too():
    values = nats_of(20), nats_of(20, 1), 1 + 20 * nats_of(20, 2)
    narrow = values[0], *(part.astype(np.float32) for part in values[1:])
    assert Trust().mixed_nats(*narrow) == pytest.approx(Trust().mixed_nats(*values), rel=1e-6)
