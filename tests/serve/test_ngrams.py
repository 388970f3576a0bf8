"""The server writes and scores with the memory of n-grams as `LanguageModel` does."""

import dataclasses
import math

import pytest

from tests.serve.servers import served
from tests.small_models import language_model
from transformerlm.ngrams import NgramIndex, NgramMemory
from transformerlm.ngrams.reference import probabilities_along

TEXT = "The fox, they've said, met 1234 crows"


@pytest.fixture(scope="module")
def lm():
    lm = language_model()
    index = NgramIndex.build([lm.tokenizer.encode_array(3 * TEXT)], lm.model.config.vocabulary_rows)
    return dataclasses.replace(lm, ngrams=NgramMemory(index))


def test_texts_are_those_of_the_model_with_its_memory(lm):
    with served(lm) as server:
        answer = server.complete(prompt="The fox, they", max_tokens=12, temperature=0)
    text = answer["choices"][0]["text"]
    assert text == lm.generate("The fox, they", max_new_tokens=12, temperature=0.0)
    assert text.startswith("'ve said, met")
    alone = dataclasses.replace(lm, ngrams=None)
    assert alone.generate("The fox, they", max_new_tokens=12, temperature=0.0) != text


def test_a_prompt_is_scored_with_it(lm):
    with served(lm) as server:
        request = {"prompt": [TEXT, TEXT], "echo": True, "max_tokens": 0, "logprobs": 0}
        answer = server.complete(**request)
    ids = lm.tokenizer.encode(TEXT)
    log_probs = [choice["logprobs"]["token_logprobs"] for choice in answer["choices"]]
    assert log_probs[0] == log_probs[1]
    assert len(log_probs[0]) == len(ids)
    alone = dataclasses.replace(lm, ngrams=None)
    with served(alone) as server:
        (plain,) = (
            choice["logprobs"]["token_logprobs"] for choice in server.complete(**request)["choices"][:1]
        )
    training = lm.tokenizer.encode(3 * TEXT)
    expected = probabilities_along(training, ids, [math.exp(log_prob) for log_prob in plain[1:]])
    assert [math.exp(log_prob) for log_prob in log_probs[0][1:]] == pytest.approx(expected, rel=1e-4)
