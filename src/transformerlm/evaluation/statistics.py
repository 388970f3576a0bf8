"""Mean loss, perplexity and bits per byte over documents, with standard errors, and differences of models.

The sample is one of documents, not of tokens: tokens of a document are correlated, so that a standard error
over tokens would be far too small. Arrays in, numbers out; documents.py fills the arrays.
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
"""Half-width of the normal distribution's central 95 %, in standard deviations; small samples need more."""


@dataclass(frozen=True)
class Estimate:
    """An estimate and its standard error over draws of documents."""

    value: float
    standard_error: float
    """NaN for a single document."""

    def interval(self) -> tuple[float, float]:
        """Both ends of the 95 % confidence interval, by the normal approximation."""
        half = DEVIATIONS_95 * self.standard_error
        return self.value - half, self.value + half

    @property
    def num_standard_errors(self) -> float:
        """The value divided by its standard error; NaN where that is zero or NaN."""
        return self.value / self.standard_error if self.standard_error > 0 else math.nan


def ratio(numerators: NDArray[Any], denominators: NDArray[Any]) -> Estimate:
    """Ratio estimator R = sum n_i / sum t_i over m documents, such as nats per token; long ones weigh more.

    Standard error: sqrt(m / (m - 1) * sum (n_i - R t_i)^2) / sum t_i, from R's first-order expansion in the
    two sums; documents are assumed to be drawn independently from a large population.

    Args:
        numerators: [m]
        denominators: [m], at least one above zero.

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
    """exp(loss), and exp of both ends of the loss's 95 % interval; NaN where there is no interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, loss: Estimate) -> Perplexity:
        """Return the perplexity of a loss; for a difference of two losses, the ratio of their
        perplexities."""
        return cls(exp_or_infinity(loss.value), *map(exp_or_infinity, loss.interval()))


def exp_or_infinity(value: float) -> float:
    """Return e^value, infinite where that overflows."""
    return math.inf if value > 700 else math.exp(value)


@dataclass(frozen=True, eq=False)
class DocumentScores:
    """A model's loss on each document of a text, in the text's order; arrays [documents]."""

    nats: Floats
    """Sum of the negative log-likelihoods of the document's tokens."""
    num_tokens: Counts
    """Predicted tokens."""
    num_bytes: Counts
    """UTF-8 bytes of the text."""
    paths: list[str]
    """File of each document."""
    without_leaks: DocumentScores | None = None
    """The scores of the tokens and bytes that do not stand in the training text; None: not looked for."""

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
    """Loss of one model minus that of another on the same documents; negative if the first is better."""

    bits_per_byte: Estimate
    loss: Estimate | None
    """Nats per token; None if the two models' tokens differ."""

    @property
    def perplexity_factor(self) -> Perplexity | None:
        """The first perplexity divided by the second; None if `loss` is."""
        return Perplexity.of(self.loss) if self.loss else None


def difference(first: DocumentScores, second: DocumentScores, *, same_tokens: bool) -> Difference:
    """First minus second, document by document (paired).

    The same documents are hard for both models, which cancels in a paired difference: its standard error is
    much smaller than that of independent samples, sqrt(se_1^2 + se_2^2).

    Source: Miller, "Adding Error Bars to Evals", 2024, section 4.2, on pairs of questions.
    """
    nats = first.nats - second.nats
    loss = ratio(nats, first.num_tokens) if same_tokens else None
    return Difference(ratio(nats / math.log(2), first.num_bytes), loss)
