"""Splits against those of Hugging Face's tokenizers."""

import random
from typing import get_args

import pytest
from tokenizers import Regex, pre_tokenizers

from transformerlm.tokenizer.splits import Behavior, Split, split_text

PATTERNS = [r"\d", r"\p{L}+", r"\s+(?!\S)|\s", r"[ab]?c*", r"x|xy|-", r" ?[^\s\p{L}]+"]


def theirs(splits, text):
    """Return the pre-tokens of the same steps there."""
    steps = [
        pre_tokenizers.Split(Regex(split.pattern), split.behavior, invert=split.invert) for split in splits
    ]
    return [piece for piece, _ in pre_tokenizers.Sequence(steps).pre_tokenize_str(text)]


@pytest.mark.parametrize("behavior", get_args(Behavior))
@pytest.mark.parametrize("invert", [False, True])
def test_texts_are_divided_as_by_tokenizers(behavior, invert):
    draw = random.Random(3)
    for _ in range(400):
        splits = [Split(draw.choice(PATTERNS), behavior, invert), Split(draw.choice(PATTERNS))]
        del splits[draw.choice([1, 2]) :]
        text = "".join(draw.choices("aabcxxy-- 12\u00e9\n", k=draw.randrange(30)))
        assert split_text(splits, text) == theirs(splits, text), (splits, text)
