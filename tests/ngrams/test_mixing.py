"""The mixture with a model's probabilities, as logits, against the probabilities themselves."""

import math

import numpy as np
import pytest
import torch

from tests.ngrams.sequences import phrases
from transformerlm.ngrams import NgramIndex, NgramMemory, Trust, mixed_along, mixed_logits
from transformerlm.ngrams.reference import probabilities_along, weights_behind

TRAINING, SIZE = phrases(0, 300, 12), 12
TEXTS = [phrases(1, 80, SIZE), [], [11], phrases(2, 33, SIZE)]


def memory_of(training=TRAINING, vocab_size=SIZE) -> NgramMemory:
    return NgramMemory(NgramIndex.build([np.array(training, np.uint16)], vocab_size))


def texts_of(memory: NgramMemory, texts=TEXTS):
    found = [memory.text() for _ in texts]
    for so_far, text in zip(found, texts, strict=True):
        so_far.extend(text)
    return found


def expected(logits: torch.Tensor, training=TRAINING, texts=TEXTS) -> torch.Tensor:
    """The mixture's probabilities, by the definition in float64."""
    rows = logits.double().softmax(-1)
    for row, text in zip(rows, texts, strict=True):
        weights, total = weights_behind(training, text)
        for token, weight in weights.items():
            row[token] += weight
        row /= total
    return rows


def random_logits(vocab_size: int = SIZE, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(len(TEXTS), vocab_size, generator=torch.Generator().manual_seed(0)) * scale


def random_logits_of(places: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(places, SIZE, dtype=torch.float64, generator=generator) * 3


@pytest.mark.parametrize(
    ("dtype", "wide"), [("float32", "float32"), ("bfloat16", "float32"), ("float64", "float64")]
)
def test_the_softmax_is_the_mixture(dtype, wide):
    logits = random_logits().to(getattr(torch, dtype))
    before = logits.clone()
    found = mixed_logits(logits, texts_of(memory_of()))
    assert found.dtype == getattr(torch, wide)
    assert (logits == before).all()
    mixture = found.double().softmax(-1)
    torch.testing.assert_close(mixture, expected(logits), rtol=2e-6, atol=0)
    torch.testing.assert_close(mixture.sum(-1), torch.ones(len(TEXTS), dtype=torch.float64))


def test_without_anything_found_logits_stay():
    logits = random_logits()
    found = mixed_logits(logits, texts_of(memory_of([], SIZE), [[], [1], [2], [3]]))
    assert (found == logits).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_very_unlikely_tokens_are_numbers(dtype):
    logits = random_logits(scale=1e3).to(dtype)
    found = mixed_logits(logits, texts_of(memory_of()))
    assert found.isfinite().all()
    assert found.log_softmax(-1).isfinite().all()
    torch.testing.assert_close(found.double().softmax(-1), expected(logits), rtol=2e-4, atol=0)


def test_forbidden_tokens_are_raised_if_they_were_counted_and_stay_forbidden_if_not():
    logits = random_logits()
    logits[0, :] = -math.inf
    logits[0, 3] = 1.0
    found = mixed_logits(logits, texts_of(memory_of()))
    assert not found.isnan().any()
    counted = weights_behind(TRAINING, TEXTS[0])[0].keys() | {3}
    assert {token for token in range(SIZE) if found[0, token] > -math.inf} == counted


def test_one_token_that_goes_on_and_on_becomes_certain():
    training = [1] * 3000
    logits = random_logits(SIZE)[:1]
    found = mixed_logits(logits, texts_of(memory_of(training), [training]))
    assert found.isfinite().all()
    assert found.softmax(-1)[0, 1] == 1


def test_a_model_may_have_more_tokens_than_the_tokenizer():
    logits = random_logits(SIZE + 52)
    found = mixed_logits(logits, texts_of(memory_of()))
    torch.testing.assert_close(found.double().softmax(-1), expected(logits), rtol=2e-6, atol=0)


def test_along_a_scored_text_the_softmax_is_the_mixture_of_the_definition():
    text = phrases(3, 40, SIZE)
    logits = random_logits_of(len(text) - 1)
    model = logits.softmax(-1).tolist()
    memory, trust = memory_of().text(text[:1]), Trust()
    parts = [
        mixed_along(logits[first:last], memory, trust, text[1:][first:last]).softmax(-1)
        for first, last in ((0, 1), (1, 17), (17, len(logits)))
    ]
    before = [row[token] for row, token in zip(model, text[1:], strict=True)]
    for place, row in enumerate(torch.cat(parts).tolist(), 1):
        for token in range(SIZE):
            ended = [*before[: place - 1], model[place - 1][token]]
            expected = probabilities_along(TRAINING, [*text[:place], token], ended)[-1]
            assert row[token] == pytest.approx(expected, rel=1e-9)
