"""Least squares for the constants of the scaling law, in two steps.

What a model and its reading change is fitted within each text, so that the differences between texts, which
are larger, do not blur it; then k, h and e are fitted to the mean of each text, relative to its pilots: a
long one and a short one, since what the law has to bridge depends on the length. Of the long ones, which most
runs have, half of the texts are above the law and half below.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transformerlm.config import ModelConfig
from transformerlm.recipe.law import Law, bits_per_byte, steepness, variables
from transformerlm.recipe.pilot import Pilot
from transformerlm.recipe.text import TextFacts

SIZES, READINGS, REPEATS = (0.2, 0.35, 0.5), (0.05, 0.1, 0.2, 0.3), (1.0, 2.0, 4.0, 8.0)
"""Values of a, c and R that are tried."""
VOCABULARIES, GROWTHS = (1024.0, 1448.0, 2048.0), (0.3, 0.4, 0.5)
"""Values of W and w. The trainings hardly tell them apart, and none of them has a large text, which has to go
with a large vocabulary (Tao et al., "Scaling Laws with Vocabulary", 2024)."""


ROUNDS = 3


@dataclass(frozen=True)
class Point:
    """A measured training."""

    text: str
    is_held_out: bool
    facts: TextFacts
    short_pilot: Pilot
    """A second pilot of the text; `facts` has a long one."""
    model: ModelConfig
    tokens: float
    bits: float


def log_residual(point: Point, law: Law) -> float:
    """Return log(measured / expected)."""
    return math.log(point.bits / bits_per_byte(point.facts, point.model, point.tokens, law))


def fit(points: Sequence[Point]) -> Law:
    """Return the constants with the least squares; each text has the same weight."""
    tried = list(itertools.product(SIZES, READINGS, REPEATS, VOCABULARIES, GROWTHS))
    law = Law()
    for _ in range(ROUNDS):  # e changes the weights of the first step, and that changes e
        found = [
            _fit_within(points, dataclasses.replace(law, a=a, c=c, R=R, W=W, w=w)) for a, c, R, W, w in tried
        ]
        law = _with_levels(points, min(found, key=lambda one: one[0])[1])
    return law


def _fit_within(points: Sequence[Point], law: Law) -> tuple[float, Law]:
    """Fit A, B and V for the other constants of `law`; return the sum of squares too."""
    terms = np.array([_variables(point, law) for point in points])
    logs = np.log([point.bits for point in points])
    weights = np.zeros(len(points))
    for text in {point.text for point in points}:
        own = np.array([point.text == text for point in points])
        terms[own] -= terms[own].mean(0)
        logs[own] -= logs[own].mean()
        weights[own] = own.sum() ** -0.5
    factors = np.linalg.lstsq(terms * weights[:, None], logs * weights, rcond=None)[0].clip(min=0)
    squares = float((((logs - terms @ factors) * weights) ** 2).sum())
    return squares, dataclasses.replace(law, **dict(zip("ABV", factors.tolist(), strict=True)))


def _variables(point: Point, law: Law) -> list[float]:
    read = point.tokens * point.facts.bytes_in_token(point.model.vocabulary_rows)
    factor = steepness(point.facts, law.e)
    return [factor * value for value in variables(point.facts, point.model, read, law)]


def _with_levels(points: Sequence[Point], law: Law) -> Law:
    """Return the law with other k, h and e, and with A, B and V in the same proportion to each other."""
    plain = dataclasses.replace(law, k=0.0, h=0.0, e=0.0)
    rows, left = [], []
    for text in sorted({point.text for point in points}):
        own = [point for point in points if point.text == text]
        for some in (own, [with_short_pilot(point) for point in own]):
            facts = some[0].facts
            found = np.mean([math.log(point.bits / facts.pilot.bits_per_byte) for point in some])
            gain = found - np.mean([log_residual(point, plain) for point in some])
            size = math.log(min(facts.train_bytes / 1e6, 1.0))
            rows.append((1.0, size, gain, -gain * math.log(facts.ngram_bits)))
            left.append(found)
    factors = np.linalg.lstsq(np.array(rows), np.array(left), rcond=None)[0]
    k, h, factor, steep = factors.tolist()
    # The median, since one odd text would pull all others with it.
    k += float(np.median(np.array(left[::2]) - np.array(rows[::2]) @ factors))
    scaled = {name: factor * getattr(law, name) for name in "ABV"}
    return dataclasses.replace(law, k=k, h=h, e=steep / factor if factor else law.e, **scaled)


def with_short_pilot(point: Point) -> Point:
    """Return a point with the short pilot in place of the long one."""
    return dataclasses.replace(point, facts=dataclasses.replace(point.facts, pilot=point.short_pilot))
