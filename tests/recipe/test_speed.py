"""Speed of training by what was measured."""

import pytest

from transformerlm.config import ModelConfig
from transformerlm.recipe import TrainingSpeed

SMALL = ModelConfig(vocab_size=64, context_length=16, d_model=32, num_layers=2, num_heads=2, d_ff=64)
LARGE = ModelConfig(vocab_size=64, context_length=16, d_model=96, num_layers=2, num_heads=2, d_ff=256)


def test_a_measured_model_corrects_all_others_in_proportion():
    speed = TrainingSpeed({32: 1e9, 128: 4e9})
    corrected = speed.corrected(SMALL, 1234.0)
    assert corrected.tokens_per_second(SMALL) == pytest.approx(1234.0)
    factor = 1234.0 / speed.tokens_per_second(SMALL)
    assert corrected.tokens_per_second(LARGE) == pytest.approx(factor * speed.tokens_per_second(LARGE))
    again = corrected.corrected(LARGE, 77.0)
    assert again.tokens_per_second(LARGE) == pytest.approx(77.0)
