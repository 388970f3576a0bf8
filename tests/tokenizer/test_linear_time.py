"""Twice the text takes twice the time, whatever it consists of: nothing here is quadratic."""

import random
import sys
import time

import pytest

from transformerlm.tokenizer import Tokenizer, train_bpe_from_texts

MOST_ROUNDS = 20
DOUBLINGS = 4
MOST = 2.5
"""How much longer twice the text may take, on average over the doublings: a single one may cross the size of
a cache. n log n gives 2.1, a quadratic method 4."""


def many(alphabet):
    """Makes texts of random ones of these."""
    return lambda length: "".join(random.Random(length).choices(alphabet, k=length))


PATTERNS = {
    "one letter": many("a"),
    "random letters": many("abcdefghijklmnopqrstuvwxyz"),
    "digits": many("0123456789"),
    "punctuation": many("!?.,;:-'\"()[]{}<>|/\\@#$%^&*_=+~"),
    "spaces": many(" "),
    "newlines": many("\n"),
    "CJK": many("的一是不了在人有我他这中大来上国"),
    "emoji": many(["👍", "👩", "🏽", "\u200d", "🇩", "🇪", "😀"]),
    "combining marks": many("\u0301\u0300\u0308\u0323"),
    "mixed": many(["a", "the ", "1", "!", " ", "\n", "中", "👍", "e\u0301", "'s", "\u3000", "<|e|>", "<|e|"]),
}


@pytest.fixture(scope="module")
def tokenizer(kernels):
    """Its merges make long tokens of every pattern."""
    texts = [text_of(3000) for text_of in PATTERNS.values()]
    return Tokenizer(*train_bpe_from_texts(texts * 2, 3000, ["<|e|>"], num_workers=1), ["<|e|>"])


def seconds(function, argument):
    """Of this process' own time: what others do meanwhile does not count."""
    start = time.process_time()
    function(argument)
    return time.process_time() - start


def lines(function, argument):
    """Lines of Python that are executed: always the same number, on any machine."""
    number = 0

    def trace(frame, event, _):
        nonlocal number
        number += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(argument)
    finally:
        sys.settrace(before)
    return number


def is_linear(cost, function, short, long):
    """Whether cost(long) / cost(short), the least costs of several rounds, comes down to what is allowed.

    A disturbance makes a time longer and never shorter: rounds are added until the least times are right. A
    quadratic method's never are.
    """
    short_costs, long_costs = [], []
    for _ in range(MOST_ROUNDS if cost is seconds else 1):
        short_costs += [cost(function, short) for _ in range(3)]
        long_costs.append(cost(function, long))
        if min(long_costs) <= MOST**DOUBLINGS * min(short_costs):
            return True
    return False


def texts_of(name, length):
    return [PATTERNS[name](number) for number in (length // 2**DOUBLINGS, length)]


@pytest.mark.parametrize("kernels", ["always"], indirect=True)
@pytest.mark.parametrize(
    "length", [400_000, pytest.param(10_000_000, marks=[pytest.mark.slow, pytest.mark.endurance])]
)
@pytest.mark.parametrize("name", PATTERNS)
def test_encoding_takes_linear_time(tokenizer, kernels, name, length):
    assert is_linear(seconds, tokenizer.encode_array, *texts_of(name, length))


@pytest.mark.parametrize("kernels", ["never"], indirect=True)
@pytest.mark.parametrize("name", PATTERNS)
def test_encoding_in_plain_python_executes_linearly_many_lines(tokenizer, kernels, name):
    def encode(text):
        tokenizer._python_encoder.cache.clear()  # what is remembered would make the longer text look cheap
        tokenizer.encode_array(text)

    assert is_linear(lines, encode, *texts_of(name, 16_000))


@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.parametrize("kernels", ["never"], indirect=True)
@pytest.mark.parametrize("name", PATTERNS)
def test_encoding_in_plain_python_takes_linear_time(tokenizer, kernels, name):
    assert is_linear(seconds, tokenizer.encode_array, *texts_of(name, 1_600_000))


@pytest.mark.parametrize("kernels", ["never"], indirect=True)
@pytest.mark.parametrize("cost", [seconds, lines])
def test_a_quadratic_method_is_found(kernels, cost):
    def quadratic(number):
        for _ in range(number):
            for _ in range(number):
                pass

    assert not is_linear(cost, quadratic, 60, 60 * 2**DOUBLINGS)
