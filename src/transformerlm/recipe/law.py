"""The scaling law: bits per byte of a validation text, from facts of the text, the model and the tokens."""

from __future__ import annotations

import math

from transformerlm.config import ModelConfig
from transformerlm.nn.accounting import num_non_embedding_parameters
from transformerlm.recipe.text import TextFacts

TOKENS_PER_STEP = 2048
"""Tokens per step at which LR and MUON_LR were found."""
LR = {"muon": 6e-3, "adamw": 3e-3}
MUON_LR = 0.02
WEIGHT_DECAY = 0.1
MAX_STEPS = 8000
WARMUP_STEPS = 50
MARGIN = 0.05


def bits_per_byte(facts: TextFacts, model: ModelConfig, tokens: float) -> float:
    size, read = num_non_embedding_parameters(model), tokens * facts.bytes_in_token(model.vocabulary_rows)
    return facts.ngram_bits * (0.5 + 3 * size**-0.2 + 20 * read**-0.3)


def max_passes(facts: TextFacts, model: ModelConfig) -> float:
    return 30.0


def dropout(facts: TextFacts, model: ModelConfig, passes: float) -> float:
    return min(0.3, round(0.02 * math.floor(passes), 2))
