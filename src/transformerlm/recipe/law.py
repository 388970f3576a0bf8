"""The scaling law: bits per byte of a validation text, from a pilot on it, the model and the bytes read.

    log(bits) = log(P) + k + h log(min(u, 1)) + (1 - e log(g)) (T(model, bytes) - T(pilot's model, its bytes))
    T = A n^-a + B b^-c + V log2(v / (W u^w))^2

P are the bits per byte of the pilot (`pilot.py`), g those of an n-gram model (`ngram.py`): texts that repeat
themselves gain more from further reading. u are the megabytes of training text, n the millions of parameters
in the blocks, v is the size of the vocabulary, best at W for a megabyte, and b the megabytes that are read.
Repeated text counts for less and less,

    b = u (1 + R (1 - exp(-(passes - 1) / R))).

The terms with n and b have the form of Hoffmann et al., "Training Compute-Optimal Large Language Models",
2022, equation 2; b is that of Muennighoff et al., "Scaling Data-Constrained Language Models", 2023, equation
5. benchmarking/measure_law.py fits the constants, for models of 0.03 to 3 million parameters in the blocks,
texts of 30 kB to 11 MB, and up to 40 passes; docs/performance.md has the residuals.
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
MIN_TOKENS_PER_ID = 30.0
"""Tokens of the text for each id of a vocabulary, at least."""
MAX_DROPOUT = 0.4


@dataclass(frozen=True)
class Law:
    """Constants of the law."""

    k: float = -0.0311
    h: float = 0.0198
    e: float = 0.590
    A: float = 0.0497
    a: float = 0.5
    B: float = 6.302
    c: float = 0.05
    R: float = 1.0
    V: float = 0.0213
    W: float = 2048.0
    w: float = 0.3


LAW = Law()
MARGIN, MARGIN_OF_GAIN = 0.1, 0.25
"""Half of the interval of log(bits): a constant, and what each unit of log(pilot's / expected bits) adds."""
MIN_BITS = 0.01
"""Bits per byte as which fewer count: of one letter again and again there are none, and no logarithm."""
MIN_STEEPNESS, MAX_STEEPNESS = 0.3, 1.5
"""Limits of 1 - e log(g): in the fit it was 0.35 for the hardest text, 30 kB of a play, and about 1.5 for the
easiest, JavaScript. A table that n-grams know almost all of would have 2.4, and gained less."""


def bits_per_byte(facts: TextFacts, model: ModelConfig, tokens: float, law: Law = LAW) -> float:
    """Return the expected bits per byte after training on this many tokens, repeated ones included."""
    read = tokens * facts.bytes_in_token(model.vocabulary_rows)
    pilot, bits = facts.pilot, max(MIN_BITS, facts.pilot.bits_per_byte)
    gain = _terms(facts, model, read, law) - _terms(facts, pilot.shape, pilot.read_bytes, law)
    level = law.k + law.h * math.log(min(facts.train_bytes / 1e6, 1.0))
    return bits * math.exp(level + steepness(facts, law.e) * gain)


def steepness(facts: TextFacts, e: float) -> float:
    """Return how much a text gains from reading and from parameters, relative to one with g = 1."""
    found = 1 - e * math.log(max(MIN_BITS, facts.ngram_bits))
    return min(MAX_STEEPNESS, max(MIN_STEEPNESS, found))


def interval(facts: TextFacts, bits: float) -> tuple[float, float]:
    """Return the ends of the interval around expected bits per byte.

    It is about what the law misses by on texts that take no part in its fit: more, the shorter the pilot was,
    and the more of the validation text is copied from the training text, which a run may learn to do or not.
    """
    gain = abs(math.log(max(MIN_BITS, facts.pilot.bits_per_byte) / bits))
    margin = MARGIN + MARGIN_OF_GAIN * (1 + facts.copied) * gain
    return bits * math.exp(-margin), bits * math.exp(margin)


def _terms(facts: TextFacts, model: ModelConfig, read_bytes: float, law: Law) -> float:
    size, read, vocabulary = variables(facts, model, read_bytes, law)
    return law.A * size + law.B * read + law.V * vocabulary


def variables(
    facts: TextFacts, model: ModelConfig, read_bytes: float, law: Law
) -> tuple[float, float, float]:
    """Return what A, B and V are multiplied with."""
    size = num_non_embedding_parameters(model) / 1e6
    read = effective_bytes(facts.train_bytes, read_bytes, law.R) / 1e6
    best = law.W * (facts.train_bytes / 1e6) ** law.w
    return size**-law.a, read**-law.c, math.log2(model.vocabulary_rows / best) ** 2


def effective_bytes(text_bytes: float, read_bytes: float, repeats: float) -> float:
    """Return the bytes of new text that reading a text for so many bytes is worth; `repeats`: R."""
    passes = read_bytes / text_bytes
    if passes <= 1:
        return read_bytes
    return text_bytes * (1 + repeats * (1 - math.exp((1 - passes) / repeats)))


def dropout(facts: TextFacts, model: ModelConfig, passes: float) -> float:
    """Return the dropout for a number of passes: the more a model can learn by heart, the more.

    0.05 log2(n passes / 2 u), for n parameters in the blocks and u bytes of text.
    """
    pressure = num_non_embedding_parameters(model) * passes / facts.train_bytes
    return round(min(MAX_DROPOUT, max(0.0, 0.05 * math.log2(pressure / 2))), 2)
