"""Writing with the memory of n-grams, held against the definition."""

import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import torch

from tests.infer.test_generate import slow_generate
from transformerlm.infer.batch import window_start
from transformerlm.infer.continuous import ContinuousBatch
from transformerlm.infer.generate import DecodingSettings, generate, steps
from transformerlm.ngrams import NgramIndex, NgramMemory
from transformerlm.ngrams.reference import weights_behind

VOCAB_SIZE = 64
TRAINING = np.random.default_rng(3).integers(0, 12, 500)
TRAINING[300:340] = TRAINING[100:140]
PROMPTS = [TRAINING[100:112].tolist(), [5], [*range(3), *range(3), 0], TRAINING[20:50].tolist()]
"""The third repeats itself, and the last is longer than the context."""
SETTINGS = {"temperature": 0.9, "top_p": 0.95, "repetition_penalty": 1.1, "seed": 4}


@pytest.fixture(scope="module")
def memory():
    return NgramMemory(NgramIndex.build([TRAINING.astype(np.uint16)], VOCAB_SIZE))


def mixed_by_definition(logits, ids, prompt_length):
    """Logits of the mixture, computed in probabilities. The repetition penalty multiplies logits, so a
    constant in them matters: that of the model stays."""
    probabilities = logits.softmax(-1)
    for token, weight in weights_behind(TRAINING.tolist(), ids, num_counted=prompt_length)[0].items():
        probabilities[token] += weight
    return probabilities.log() + logits.logsumexp(-1)


def slow_texts(model, number, **options):
    """The definition of all texts."""
    return [
        slow_generate(
            model,
            prompt,
            number,
            row,
            changed=partial(mixed_by_definition, prompt_length=len(prompt)),
            **options,
        )
        for row, prompt in enumerate(PROMPTS)
    ]


def in_continuous_batch(model, num_rows, settings):
    batch = ContinuousBatch(model, num_rows)
    for row, prompt in enumerate(PROMPTS):
        batch.submit(row, prompt, dataclasses.replace(settings, first_row=row))
    found = {row: [] for row in range(len(PROMPTS))}
    while batch:
        for row, token in (pair for step in batch.steps(8) for pair in step.items()):
            found[row].append(token)
    return [found[row] for row in range(len(PROMPTS))]


@pytest.mark.parametrize("options", [{"temperature": 0.0}, SETTINGS], ids=["greedy", "sampled"])
def test_texts_are_those_of_the_mixture_of_both(make_model, memory, options):
    model = make_model(vocab_size=VOCAB_SIZE)
    expected = slow_texts(model, 24, **options)
    for use_cache in (True, False):
        found = generate(model, PROMPTS, max_new_tokens=24, use_cache=use_cache, ngrams=memory, **options)
        assert found == expected
    settings = DecodingSettings.from_options(max_new_tokens=24, ngrams=memory, **options)
    for num_rows in (1, 3):
        found = in_continuous_batch(model, num_rows, settings)
        assert [[token.id for token in text] for text in found] == expected
    assert generate(model, PROMPTS, max_new_tokens=24, **options) != expected


def test_texts_that_end_leave_the_memories_of_the_others_as_they_are(make_model, memory):
    model = make_model(vocab_size=VOCAB_SIZE)
    alone = [generate(model, prompt, max_new_tokens=20, ngrams=memory, first_row=row, **SETTINGS)
             for row, prompt in enumerate(PROMPTS)]  # fmt: skip
    settings = DecodingSettings.from_options(max_new_tokens=20, ngrams=memory, **SETTINGS)
    found = {row: [] for row in range(len(PROMPTS))}
    for step in steps(model, PROMPTS, settings, lambda row: len(found[row]) >= 4 + 5 * row):
        for row, token in step.items():
            found[row].append(token.id)
    assert [found[row] for row in found] == [text[: 4 + 5 * row] for row, text in enumerate(alone)]


def test_log_probabilities_are_those_of_the_mixture(make_model, memory):
    model = make_model(vocab_size=VOCAB_SIZE)
    settings = DecodingSettings.from_options(max_new_tokens=6, ngrams=memory, temperature=0.0)
    settings = dataclasses.replace(settings, log_probs=True, num_alternatives=2)
    for prompt, text in zip(PROMPTS[:3], in_continuous_batch(model, 4, settings), strict=False):
        ids = list(prompt)
        for token in text:
            with torch.no_grad():
                visible = ids[window_start(len(ids), 16) :]
                probabilities = model(torch.tensor([visible]))[0, -1].softmax(-1)
            weights, total = weights_behind(TRAINING.tolist(), ids, num_counted=len(prompt))
            for other, weight in weights.items():
                probabilities[other] += weight
            assert math.exp(token.log_prob) == pytest.approx(float(probabilities[token.id] / total), rel=1e-4)
            assert token.alternatives[0] == (token.id, pytest.approx(token.log_prob, rel=1e-4))
            ids.append(token.id)


def test_a_memory_of_another_vocabulary_is_refused(make_model, memory):
    model = make_model(vocab_size=VOCAB_SIZE + 1)
    with pytest.raises(ValueError, match="ngrams: expected a memory of 65 ids, got 64"):
        generate(model, [1], max_new_tokens=1, ngrams=memory)
    settings = DecodingSettings.from_options(max_new_tokens=1, ngrams=memory)
    with pytest.raises(ValueError, match="ngrams: expected a memory of 65 ids, got 64"):
        ContinuousBatch(model, 1).submit("a", [1], settings)


def test_texts_with_and_without_memory_share_a_batch(make_model, memory):
    model = make_model(vocab_size=VOCAB_SIZE)
    batch = ContinuousBatch(model, 4)
    for row, ngrams in enumerate((memory, None, memory)):
        options = {"max_new_tokens": 12, "first_row": row, "ngrams": ngrams, **SETTINGS}
        batch.submit(row, PROMPTS[0], DecodingSettings.from_options(**options))
    found = {0: [], 1: [], 2: []}
    while batch:
        for row, token in batch.step().items():
            found[row].append(token.id)
    for row, ngrams in enumerate((memory, None, memory)):
        options = {"max_new_tokens": 12, "first_row": row, "ngrams": ngrams, **SETTINGS}
        assert found[row] == generate(model, PROMPTS[0], **options)
