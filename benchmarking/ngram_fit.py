"""The fit of the factors of the memory of n-grams: how much the counts of each order are trusted.

What the memory has counted for each target is looked up once, for one order at a time. From that the
probabilities with any factors follow by the recursion in ngrams/reference.py. The fit is a coordinate descent
on the logarithms of the factors.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transformerlm.kernels.ngrams_layout import ORDERS
from transformerlm.ngrams import Factors, NgramIndex, NgramMemory
from transformerlm.ngrams.factors import LARGEST

Floats = NDArray[np.float64]
Order = tuple[str, int]
"""Field of `Factors`, and the length of the context."""

MIXED: tuple[Order, ...] = (("earlier", 1), *((kind, n) for n in ORDERS for kind in ("training", "earlier")))
"""All orders as they are mixed, one after another."""
SMALLEST, GREATEST = math.log(1e-2), math.log(1e4)
"""Logarithms of factors that are tried: beyond, an order decides alone or takes no part."""
STEPS = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""Changes of a logarithm; each is tried until it improves nothing."""
LEAST_GAIN = 1e-6
"""A round that improves the mean logarithm of the ratios by less ends a step."""


@dataclass(frozen=True)
class Counted:
    """What is known of the targets of a text."""

    nats: Floats
    """Under the network: [targets]."""
    shares: Floats
    """c(x) / n of each order in MIXED and each target x: [orders, targets]; see ngrams/reference.py."""
    sizes: Floats
    """c / n, likewise."""

    def mixed(self, logs: Floats) -> Floats:
        """Return the nats of each target with factors of these logarithms [orders]."""
        return -np.log(self._probabilities(np.exp(-self.nats), logs, 0))

    def ratio(self, before: Floats, logs: Floats, first: int) -> float:
        """Return the nats with the memory, divided by those of the network, for the targets' probabilities
        before the order `first` was mixed in."""
        probabilities = self._probabilities(before, logs, first)
        return float(-np.log(probabilities).mean() / self.nats.mean())

    def after(self, before: Floats, log: float, order: int) -> Floats:
        """Return the targets' probabilities with one more order."""
        factor = math.exp(log)
        found: Floats = (self.shares[order] + factor * before) / (self.sizes[order] + factor)
        return found

    def _probabilities(self, before: Floats, logs: Floats, first: int) -> Floats:
        for order in range(first, len(MIXED)):
            before = self.after(before, logs[order], order)
        return before


def count(
    index: NgramIndex, files: Sequence[NDArray[np.integer]], separator: int | None, nats: Floats
) -> Counted:
    """Look up all orders for all tokens of `files` but the first of each; the network's nats are theirs."""
    found = [list(_looked_up(index, file, separator)) for file in files]
    shares, sizes = (np.concatenate([[part[i] for part in one] for one in found], axis=1) for i in (0, 1))
    return Counted(nats, shares, sizes)


def _looked_up(
    index: NgramIndex, tokens: NDArray[np.integer], separator: int | None
) -> Iterator[tuple[Floats, Floats]]:
    """Yield c(x) / n and c / n of each order: with a factor of 1, and the others' so large that they do
    nothing, they are the weight and what the total has above 1."""
    for order in MIXED:
        logs = np.where([other == order for other in MIXED], 0.0, math.log(LARGEST))
        weights, totals = NgramMemory(index, factors_of(logs)).score_documents(tokens, separator)
        yield weights[1:], totals[1:] - 1


def factors_of(logs: Floats) -> Factors:
    """Return factors from their logarithms, in the order of MIXED."""
    values = dict(zip(MIXED, np.minimum(np.exp(logs), LARGEST).tolist(), strict=True))
    training, earlier = (
        {length: value for (kind, length), value in values.items() if kind == wanted}
        for wanted in ("training", "earlier")
    )
    return Factors(training, earlier)


def logs_of(factors: Factors) -> Floats:
    """Return the logarithms of factors, in the order of MIXED."""
    kinds = {"training": factors.training, "earlier": factors.earlier}
    return np.log([kinds[kind][length] for kind, length in MIXED])


def fit(texts: Sequence[Counted], start: Floats) -> Floats:
    """Return logarithms with which the mean over texts of log(nats with the memory / nats) is least."""
    logs = np.clip(start, SMALLEST, GREATEST)
    for step in STEPS:
        value, last = loss(texts, logs), math.inf
        while last - value > LEAST_GAIN:
            last = value
            logs, value = _improved(texts, logs, value, step)
    return logs


def loss(texts: Sequence[Counted], logs: Floats) -> float:
    """Return the mean over texts of log(nats with the memory / nats of the network)."""
    return _loss_from(texts, [np.exp(-text.nats) for text in texts], logs, 0)


def _loss_from(texts: Sequence[Counted], before: Sequence[Floats], logs: Floats, first: int) -> float:
    pairs = zip(texts, before, strict=True)
    return statistics.fmean(math.log(text.ratio(own, logs, first)) for text, own in pairs)


def _improved(texts: Sequence[Counted], logs: Floats, value: float, step: float) -> tuple[Floats, float]:
    """Try a larger and a smaller factor for each order in turn; return the best, and what it comes to."""
    before = [np.exp(-text.nats) for text in texts]
    for order in range(len(MIXED)):
        for change in (step, -step):
            trial = logs.copy()
            trial[order] = np.clip(logs[order] + change, SMALLEST, GREATEST)
            found = _loss_from(texts, before, trial, order)
            if found < value:
                logs, value = trial, found
                break
        pairs = zip(texts, before, strict=True)
        before = [text.after(own, logs[order], order) for text, own in pairs]
    return logs, value
