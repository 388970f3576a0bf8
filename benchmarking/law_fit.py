"""Least squares for the constants of the scaling law, in logarithms."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transformerlm.config import ModelConfig
from transformerlm.recipe.law import Law, bits_per_byte
from transformerlm.recipe.text import TextFacts

NAMES = [constant.name for constant in dataclasses.fields(Law)]
MAX_ROUNDS, DIFFERENCE = 200, 1e-5
Logs = NDArray[np.float64]
PRIOR = 0.02
"""Weight of a constant's distance from where the search begins: what the points say nothing about stays."""


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


def fit(points: Sequence[Point], start: Law | None = None) -> Law:
    """Return the constants with the least squares, by Levenberg and Marquardt's method with differences.

    All constants are positive: their logarithms are searched.

    Source: Marquardt, "An Algorithm for Least-Squares Estimation of Nonlinear Parameters", 1963.
    """
    begin = _logs(start or Law())
    place, damping = begin, 1e-2
    errors = _errors(points, place, begin)
    for _ in range(MAX_ROUNDS):
        steps = DIFFERENCE * np.eye(len(place))
        slopes = np.stack([(_errors(points, place + step, begin) - errors) / DIFFERENCE for step in steps])
        square = slopes @ slopes.T
        move = np.linalg.solve(square + damping * np.diag(np.diag(square) + 1e-9), -slopes @ errors)
        there = _errors(points, place + move, begin)
        if there @ there < errors @ errors:
            gain = 1 - (there @ there) / (errors @ errors)
            place, errors, damping = place + move, there, damping / 3
            if gain < 1e-9:
                break
        else:
            damping *= 4
            if damping > 1e9:
                break
    return _law(place)


def _errors(
    points: Sequence[Point], place: NDArray[np.float64], begin: NDArray[np.float64]
) -> NDArray[np.float64]:
    law = _law(place)
    residuals = np.array([log_residual(point, law) for point in points])
    return np.concatenate([residuals, PRIOR * (place - begin)])


def _logs(law: Law) -> Logs:
    return np.log([getattr(law, name) for name in NAMES])


def _law(place: Logs) -> Law:
    values = np.exp(np.clip(place, -25, 25)).tolist()
    return Law(**dict(zip(NAMES, values, strict=True)))
