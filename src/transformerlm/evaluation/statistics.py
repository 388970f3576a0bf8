"""How well a model predicts documents, and how far chance alone may have moved that number.

Documents, and not tokens, are what was drawn: the tokens of a document are alike, so that a standard error
over tokens would be far too small. Arrays in, numbers out; who fills the arrays is scoring.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

DEVIATIONS_95 = 1.959964
"""Standard errors on each side that hold 95 % of a normal distribution; with few documents it takes more."""


@dataclass(frozen=True)
class Estimate:
    """A number, and the standard deviation that it would have if other documents had been drawn."""

    value: float
    standard_error: float
    """NaN where there is one document: it says nothing of how others differ."""

    def interval(self) -> tuple[float, float]:
        """Both ends of the 95 % interval, by the normal distribution."""
        half = DEVIATIONS_95 * self.standard_error
        return self.value - half, self.value + half

    @property
    def num_standard_errors(self) -> float:
        """How far from zero the number is, in standard errors; NaN where those are zero or unknown."""
        return self.value / self.standard_error if self.standard_error > 0 else math.nan


def ratio(numerators: NDArray[Any], denominators: NDArray[Any]) -> Estimate:
    """R = sum n_i / sum t_i over m documents, such as nats per token; long documents count for more.

    Standard error: sqrt(m / (m - 1) * sum (n_i - R t_i)^2) / sum t_i, from R's first-order expansion in the
    two sums; documents taken as drawn independently, from many more than these.

    Args:
        numerators: [m]
        denominators: [m], of which at least one is above zero.

    Source: Cochran, "Sampling Techniques", 3rd edition, 1977, section 6.4.
    """
    total, number = denominators.sum(dtype=np.float64), len(numerators)
    value = numerators.sum(dtype=np.float64) / total
    if number < 2:
        return Estimate(float(value), math.nan)
    squares = np.square(numerators - value * denominators).sum(dtype=np.float64)
    return Estimate(float(value), float(np.sqrt(number / (number - 1) * squares) / total))


@dataclass(frozen=True)
class Perplexity:
    """exp(loss), and of both ends of the loss' 95 % interval; NaN where that has none."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, loss: Estimate) -> Perplexity:
        """The perplexity of a loss; of a difference of two losses, the quotient of their perplexities."""
        return cls(_exp(loss.value), *map(_exp, loss.interval()))


def _exp(value: float) -> float:
    return math.inf if value > 700 else math.exp(value)


@dataclass(frozen=True, eq=False)
class DocumentScores:
    """What a model needs for each document of a text, in the text's order; arrays [documents]."""

    nats: Floats
    """Sum of the negative log-likelihoods of its tokens."""
    num_tokens: Counts
    """Tokens that were predicted."""
    num_bytes: Counts
    """Bytes of its text."""
    paths: list[str]
    """The files that the documents are from."""

    def __len__(self) -> int:
        return len(self.nats)

    @property
    def loss(self) -> Estimate:
        """Nats per token."""
        return ratio(self.nats, self.num_tokens)

    @property
    def perplexity(self) -> Perplexity:
        """exp(loss)."""
        return Perplexity.of(self.loss)

    @property
    def bits_per_byte(self) -> Estimate:
        """Bits per byte of the text: comparable between tokenizers."""
        return ratio(self.nats / math.log(2), self.num_bytes)


@dataclass(frozen=True)
class Difference:
    """What one model needs more than another for the same documents; below zero it needs less."""

    bits_per_byte: Estimate
    loss: Estimate | None
    """Nats per token; None where the two count different tokens."""

    @property
    def perplexity_factor(self) -> Perplexity | None:
        """The first's perplexity over the second's; None as with the loss."""
        return Perplexity.of(self.loss) if self.loss else None


def difference(first: DocumentScores, second: DocumentScores, *, same_tokens: bool) -> Difference:
    """First minus second, document by document.

    Both find the same documents hard, which takes no part in the difference of a pair: its standard error is
    much smaller than that of two numbers from two samples, sqrt(se_1^2 + se_2^2).

    Source: Miller, "Adding Error Bars to Evals", 2024, section 4.2, on pairs of questions.
    """
    nats = first.nats - second.nats
    loss = ratio(nats, first.num_tokens) if same_tokens else None
    return Difference(ratio(nats / math.log(2), first.num_bytes), loss)
