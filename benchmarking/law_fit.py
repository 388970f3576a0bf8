"""Least squares for the constants of the scaling law, in two steps.

What a model and its reading change is fitted within each text, so that the differences between texts, which
are larger, do not blur it; then the levels of the texts are fitted to what is known of each before training.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transformerlm.config import ModelConfig
from transformerlm.nn.accounting import num_non_embedding_parameters
from transformerlm.recipe.law import Law, bits_per_byte, effective_bytes, level_terms
from transformerlm.recipe.text import TextFacts

SIZES, READINGS, REPEATS = (0.2, 0.35, 0.5), (0.05, 0.1, 0.2, 0.3), (2.0, 4.0, 8.0, 16.0)
"""Values of a, c and R that are tried."""
RIDGE = 0.02
"""Weight of the squares of k1 to k4: there are few texts."""
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A measured training."""

    text: str
    is_held_out: bool
    facts: TextFacts
    model: ModelConfig
    tokens: float
    bits: float


def log_residual(point: Point, law: Law) -> float:
    """Return log(measured / expected)."""
    return math.log(point.bits / bits_per_byte(point.facts, point.model, point.tokens, law))


def fit(points: Sequence[Point]) -> Law:
    """Return the constants with the least squares; each text has the same weight."""
    tried = [_fit_within(points, *values) for values in itertools.product(SIZES, READINGS, REPEATS)]
    _, law = min(tried, key=lambda found: found[0])
    return _with_levels(points, law)


def _fit_within(points: Sequence[Point], size: float, reading: float, repeats: float) -> tuple[float, Law]:
    """Fit A and B for given exponents; return the sum of squares within the texts too."""
    terms = np.array([_terms(point, size, reading, repeats) for point in points])
    bits = np.log([point.bits for point in points])
    weights = np.zeros(len(points))
    for text in {point.text for point in points}:
        own = np.array([point.text == text for point in points])
        terms[own] -= terms[own].mean(0)
        bits[own] -= bits[own].mean()
        weights[own] = own.sum() ** -0.5
    factors = np.linalg.lstsq(terms * weights[:, None], bits * weights, rcond=None)[0].clip(min=0)
    squares = float(((bits - terms @ factors) ** 2 * weights**2).sum())
    return squares, Law(A=float(factors[0]), a=size, B=float(factors[1]), c=reading, R=repeats)


def _terms(point: Point, size: float, reading: float, repeats: float) -> tuple[float, float]:
    read = effective_bytes(point.facts, point.model, point.tokens, repeats) / 1e6
    return (num_non_embedding_parameters(point.model) / 1e6) ** -size, read**-reading


def _with_levels(points: Sequence[Point], law: Law) -> Law:
    """Return the law with k0 to k4 fitted to the mean of what is left of each text."""
    plain = Law(levels=(0.0, 0.0, 0.0, 0.0, 0.0), A=law.A, a=law.a, B=law.B, c=law.c, R=law.R)
    texts = sorted({point.text for point in points})
    own = [[point for point in points if point.text == text] for text in texts]
    left = np.array([np.mean([log_residual(point, plain) for point in some]) for some in own])
    known: Numbers = np.array([level_terms(some[0].facts) for some in own])
    ridge = RIDGE * np.eye(known.shape[1])
    ridge[0, 0] = 0
    k0, k1, k2, k3, k4 = np.linalg.solve(known.T @ known + ridge, known.T @ left).tolist()
    return Law(levels=(k0, k1, k2, k3, k4), A=law.A, a=law.a, B=law.B, c=law.c, R=law.R)
