"""The scaling law: bits per byte of a validation text, from facts of the text, the model and the tokens.

    log(bits) = k0 + k1 log p + k2 log g + k3 log z + k4 log s + A n^-a + B b^-c + V log2(v / v*)^2

p, g and z are the bits per byte of a pilot (`pilot.py`), of an n-gram model (`ngram.py`) and of bzip2: how
hard the text is for a tiny Transformer, for counts of the whole sample, and by what repeats nearby. s are the
megabytes of that sample, n the millions of parameters in the blocks, v the size of the vocabulary and v* the
best one for u megabytes of training text, and b the megabytes that are read. Repeated text counts for less
and less,

    b = u (1 + R (1 - exp(-(passes - 1) / R))).

The terms with n and b have the form of Hoffmann et al., "Training Compute-Optimal Large Language Models",
2022, equation 2; b is that of Muennighoff et al., "Scaling Data-Constrained Language Models", 2023, equation
5. benchmarking/measure_law.py fits the constants but V and v*, for models of 0.03 to 3 million parameters in
the blocks, texts of 30 kB to 11 MB, and up to 30 passes; docs/performance.md has the residuals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformerlm.config import ModelConfig
from transformerlm.nn.accounting import num_non_embedding_parameters
from transformerlm.recipe.text import SAMPLE_BYTES, TextFacts

TOKENS_PER_STEP = 2048
"""Tokens per step at which LR and MUON_LR were found."""
LR = {"muon": 6e-3, "adamw": 3e-3}
"""Peak learning rate of AdamW, by [optimizer].name."""
MUON_LR = 0.025
WEIGHT_DECAY = 0.1
MIN_STEPS, MAX_STEPS = 1000, 3000
"""Steps of a run, about: a step has fewer tokens than the device works best with rather than that a run has
fewer steps, and more of them rather than that it has more steps."""
WARMUP_STEPS = 50
MAX_PASSES = 40.0
"""Passes over a text after which it is used up: more of them teach little and are learned by heart."""
MAX_PARAMETERS = 1.5e6
"""Parameters in the blocks, at most, for a megabyte of text; for other sizes with the square root. Set by
hand: on 80 kB 0.2 million did better than 0.8; on a megabyte 1.8 million were 1.6 % better than 0.8 after as
many tokens, 2 % worse after 0.6 times as many."""
MAX_BYTES_PER_PARAMETER = 30.0
"""Bytes to read for each parameter in the blocks, at most, unless a larger model is too large for the text:
what the law knows of small models is from few bytes, and it would take the smallest ones."""
MIN_TOKENS_PER_ID = 20.0
"""Tokens of the text for each id of a vocabulary, at least."""
VOCABULARY, VOCABULARY_EXPONENT = 1500.0, 0.43
"""About the best vocabulary for a megabyte of text, and how it grows with the megabytes. Not fitted: 512 ids
were best on 80 kB, 1,024 on a megabyte, 4,096 on 11 MB."""
MAX_DROPOUT = 0.4


@dataclass(frozen=True)
class Law:
    """Constants of the law."""

    levels: tuple[float, float, float, float, float] = (-4.454, 0.0705, 0.4714, 0.3237, 0.1634)
    """k0 to k4."""
    A: float = 0.1671
    a: float = 0.2
    B: float = 4.342
    c: float = 0.05
    R: float = 2.0
    V: float = 0.012
    """Not fitted: 4,096 ids instead of 1,024 cost 2.5 % on a megabyte."""


LAW = Law()
MARGIN = 0.15
"""Half of the interval, relative: about what the law misses by on texts that take no part in its fit."""


def bits_per_byte(facts: TextFacts, model: ModelConfig, tokens: float, law: Law = LAW) -> float:
    """Return the expected bits per byte after training on this many tokens, repeated ones included."""
    level = sum(k * value for k, value in zip(law.levels, level_terms(facts), strict=True))
    read = effective_bytes(facts, model, tokens, law.R) / 1e6
    size = num_non_embedding_parameters(model) / 1e6
    best = VOCABULARY * (facts.train_bytes / 1e6) ** VOCABULARY_EXPONENT
    vocabulary = law.V * math.log2(model.vocabulary_rows / best) ** 2
    return math.exp(level + law.A * size**-law.a + law.B * read**-law.c + vocabulary)


def level_terms(facts: TextFacts) -> tuple[float, float, float, float, float]:
    """Return what k0 to k4 are multiplied with."""
    sample = min(facts.train_bytes, SAMPLE_BYTES) / 1e6
    text = facts.pilot_bits, facts.ngram_bits, facts.compressed_bits, sample
    first, second, third, fourth = map(math.log, text)
    return 1.0, first, second, third, fourth


def effective_bytes(facts: TextFacts, model: ModelConfig, tokens: float, repeats: float = LAW.R) -> float:
    """Return the bytes of new text that this many tokens are worth; `repeats`: R."""
    text = facts.train_bytes
    passes = tokens * facts.bytes_in_token(model.vocabulary_rows) / text
    if passes <= 1:
        return passes * text
    return text * (1 + repeats * (1 - math.exp((1 - passes) / repeats)))


def dropout(facts: TextFacts, model: ModelConfig, passes: float) -> float:
    """Return the dropout for a number of passes: the more a model can learn by heart, the more.

    0.05 log2(n passes / 2 u), for n parameters in the blocks and u bytes of text.
    """
    pressure = num_non_embedding_parameters(model) * passes / facts.train_bytes
    return round(min(MAX_DROPOUT, max(0.0, 0.05 * math.log2(pressure / 2))), 2)
