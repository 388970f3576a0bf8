"""The n-gram model of bytes against its recursive definition, counted in dictionaries."""

import math
import random
from collections import Counter

import pytest

from transformerlm.recipe.ngram import ngram_bits


def slow_bits(train: bytes, text: bytes, orders: list[int]) -> list[float]:
    """Return `ngram_bits`, one byte after the other."""
    after = train[-max(orders) :] + text
    offset = len(after) - len(text)
    counts = Counter(train)
    probabilities = [(counts[byte] + 0.5) / (len(train) + 128) for byte in text]
    found = []
    for order in orders:
        following: dict[bytes, Counter[int]] = {}
        for end in range(order, len(train)):
            following.setdefault(train[end - order : end], Counter())[train[end]] += 1
        for place, byte in enumerate(text):
            seen = following.get(after[offset + place - order : offset + place], Counter())
            if seen:
                shorter = probabilities[place]
                probabilities[place] = (seen[byte] + len(seen) * shorter) / (seen.total() + len(seen))
        found.append(-sum(map(math.log2, probabilities)) / len(text))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(seed):
    rng = random.Random(seed)
    words = [bytes(rng.choices(b"abc\x00\xff", k=rng.randint(1, 4))) for _ in range(6)]
    train, text = (b" ".join(rng.choices(words, k=number)) for number in (300, 40))
    orders = [1, 2, 3, 5, 8]
    assert ngram_bits(train, text, orders) == pytest.approx(slow_bits(train, text, orders), rel=1e-12)


def test_a_repeated_passage_needs_few_bits_and_noise_eight():
    passage = random.Random(0).randbytes(3000)
    assert ngram_bits(passage * 2, passage)[-1] < 0.6
    assert min(ngram_bits(passage, random.Random(1).randbytes(3000))) > 7.5


@pytest.mark.parametrize("train", [b"a", b"ab", b"abcabcabc"])
def test_texts_shorter_than_the_contexts(train):
    bits = ngram_bits(train, b"abcd")
    assert all(math.isfinite(number) and number > 0 for number in bits)
