"""Twice the text takes twice the time, whatever it consists of: nothing here is quadratic."""

import random

import pytest

from tests.tokenizer.costs import DOUBLINGS, is_linear, lines, seconds
from transformerlm.tokenizer import Tokenizer, train_bpe_from_texts


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
# One of each kind: a long pre-token that merges to a few tokens or to many, white space, short pre-tokens.
KINDS = {"one letter", "random letters", "spaces", "mixed"}
ENDURANCE = [pytest.mark.slow, pytest.mark.endurance]
NAMES = [name if name in KINDS else pytest.param(name, marks=ENDURANCE) for name in PATTERNS]


@pytest.fixture(scope="module")
def tokenizer(kernels):
    """Its merges make long tokens of every pattern."""
    texts = [text_of(1000) for text_of in PATTERNS.values()]
    return Tokenizer(*train_bpe_from_texts(texts * 2, 1500, ["<|e|>"], num_workers=1), ["<|e|>"])


def texts_of(name, length):
    return [PATTERNS[name](number) for number in (length // 2**DOUBLINGS, length)]


@pytest.mark.parametrize("kernels", ["always"], indirect=True)
@pytest.mark.parametrize("length", [400_000, pytest.param(10_000_000, marks=ENDURANCE)])
@pytest.mark.parametrize("name", PATTERNS)
def test_encoding_takes_linear_time(tokenizer, kernels, name, length):
    assert is_linear(seconds, tokenizer.encode_array, *texts_of(name, length))


@pytest.mark.parametrize("kernels", ["never"], indirect=True)
@pytest.mark.parametrize("name", NAMES)
def test_encoding_in_plain_python_executes_linearly_many_lines(tokenizer, kernels, name):
    def encode(text):
        tokenizer._python_encoder.cache.clear()  # what is cached would make the longer text look cheap
        tokenizer.encode_array(text)

    assert is_linear(lines, encode, *texts_of(name, 6_400))


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

    assert not is_linear(cost, quadratic, 30, 30 * 2**DOUBLINGS)
