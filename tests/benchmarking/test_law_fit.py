"""The fit of the scaling law finds the constants that made the points."""

import itertools

import pytest

from benchmarking.law_fit import Point, fit, log_residual
from transformerlm.config import ModelConfig
from transformerlm.recipe import TextFacts
from transformerlm.recipe.law import Law, bits_per_byte
from transformerlm.recipe.pilot import Pilot

TRUE = Law(k=-0.05, h=0.03, e=0.4, A=0.06, a=0.35, B=4.0, c=0.1, R=2.0, V=0.02, W=1448.0, w=0.4)
TOKENS = {512: 1.9, 2048: 2.9}


def points(name: str, train_bytes: int, ngram_bits: float, bits: float) -> list[Point]:
    """Trainings whose results are just what TRUE says, from pilots of any length."""
    found = []
    for (width, vocab_size), passes in itertools.product(itertools.product((64, 192), TOKENS), (0.5, 2, 8)):
        model = ModelConfig(
            vocab_size=vocab_size,
            context_length=128,
            d_model=width,
            num_layers=4,
            num_heads=2,
            d_ff=3 * width,
        )
        pilots = [Pilot(bits, 600_000, 1024)]
        tokens = passes * train_bytes / TOKENS[vocab_size]
        result = bits_per_byte(TextFacts(train_bytes, 1, ngram_bits, pilots[0], TOKENS), model, tokens, TRUE)
        # A shorter pilot of the same text: its bits are those that lead to the same result.
        short = TextFacts(train_bytes, 1, ngram_bits, Pilot(1.0, 200_000, 1024), TOKENS)
        pilots.append(Pilot(result / bits_per_byte(short, model, tokens, TRUE), 200_000, 1024))
        facts = TextFacts(train_bytes, 1, ngram_bits, pilots[0], TOKENS)
        found.append(Point(name, False, facts, pilots[1], model, tokens, result))
    return found


def test_the_constants_are_found():
    texts = [
        ("a", 80_000, 2.5, 2.2),
        ("b", 10**6, 1.0, 1.5),
        ("c", 4 * 10**6, 2.2, 2.4),
        ("d", 10**7, 1.6, 2.0),
    ]
    known = [point for text in texts for point in points(*text)]
    law = fit(known)
    assert max(abs(log_residual(point, law)) for point in known) < 0.005
    assert (law.c, law.R, law.W, law.w) == (TRUE.c, TRUE.R, TRUE.W, TRUE.w)
    assert (law.k, law.h, law.e) == pytest.approx((TRUE.k, TRUE.h, TRUE.e), abs=0.01)
