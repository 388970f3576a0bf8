"""The scaling law: bits per byte of a validation text, from facts of the text, the model and the tokens.

    log(bits / f) = log(p / f) ((A / n)^a + (B / b)^c + (V v / u)^d),        f = e p (g / p)^k (z / p)^m

p, g and z are the bits per byte of a pilot (`pilot.py`), of an n-gram model (`ngram.py`) and of bzip2: how
hard the text is for a tiny Transformer, for counts of the whole text, and by what repeats nearby. From them
comes the f that a large model would reach with much text; a smaller model, less text and rarer ids fall short
of it by a part of log(p / f). n are the parameters in the blocks, v the size of the vocabulary, u the bytes
of training text, and b those that are read: repeated text counts for less and less,

    b = u (1 + R (1 - exp(-(passes - 1) / R))).

The terms with n and b are those of Hoffmann et al., "Training Compute-Optimal Large Language Models", 2022,
equation 2; b is that of Muennighoff et al., "Scaling Data-Constrained Language Models", 2023, equation 5; the
last term is for ids that a short text has too rarely. benchmarking/measure_law.py fits the constants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformerlm.config import ModelConfig
from transformerlm.nn.accounting import num_non_embedding_parameters
from transformerlm.recipe.text import TextFacts

TOKENS_PER_STEP = 2048
"""Tokens per step at which LR and MUON_LR were found."""
LR = {"muon": 6e-3, "adamw": 3e-3}
MUON_LR = 0.035
WEIGHT_DECAY = 0.1
TARGET_STEPS = 3000
"""Steps of a run whose tokens per step are more than the device needs."""
WARMUP_STEPS = 50
MARGIN = 0.06


@dataclass(frozen=True)
class Law:
    """Constants of the law, under the names of the formula."""

    e: float = 0.68
    k: float = 1.12
    m: float = 0.6
    A: float = 975.0
    a: float = 0.43
    B: float = 180000.0
    c: float = 0.26
    V: float = 0.97
    d: float = 1.2
    R: float = 24.6


LAW = Law()


def bits_per_byte(facts: TextFacts, model: ModelConfig, tokens: float, law: Law = LAW) -> float:
    """Return the expected bits per byte after training on this many tokens, repeated ones included."""
    size, text = num_non_embedding_parameters(model), facts.train_bytes
    read = effective_bytes(facts, model, tokens, law)
    missing = (law.A / size) ** law.a + (law.B / read) ** law.c
    missing += (law.V * model.vocabulary_rows / text) ** law.d
    pilot = facts.pilot_bits
    floor = law.e * pilot * (facts.ngram_bits / pilot) ** law.k * (facts.compressed_bits / pilot) ** law.m
    return float(floor * max(1.0, pilot / floor) ** missing)


def effective_bytes(facts: TextFacts, model: ModelConfig, tokens: float, law: Law = LAW) -> float:
    """Return the bytes of new text that this many tokens are worth."""
    text = facts.train_bytes
    passes = tokens * facts.bytes_in_token(model.vocabulary_rows) / text
    if passes <= 1:
        return passes * text
    return text * (1 + law.R * (1 - math.exp((1 - passes) / law.R)))


MAX_PASSES = 40.0
"""Passes over a text after which it is used up: more of them teach little and are learned by heart."""
MAX_DROPOUT = 0.4


def dropout(facts: TextFacts, model: ModelConfig, passes: float) -> float:
    """Return the dropout for a number of passes: the more a model can learn by heart, the more.

    0.05 log2(n passes / 2 u), for n parameters in the blocks and u bytes of text.
    """
    pressure = num_non_embedding_parameters(model) * passes / facts.train_bytes
    return round(min(MAX_DROPOUT, max(0.0, 0.05 * math.log2(pressure / 2))), 2)
