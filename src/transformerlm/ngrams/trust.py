"""How far the memory is trusted in a text, learned while the text is scored.

The memory is of use where a text says again what was said, and does harm where it only seems to: random
numbers, or words in random order. So the memory takes part at several strengths s,

    p_s(x) = (p_0(x) + s w(x)) / (1 + s W),

with w and W from memory.py (W is the total less 1), and the probability of a token is the mean of all,
weighted by how well each has predicted the text so far: after a token x, the share of each strength is
multiplied by its p_s(x). Then a small part of all shares goes back to where they began, so that a text may
change. Strength 0 is the network alone, with a tenth of the shares at first: whatever the text is, it costs
at most ln 10 nats more than under the network, and 0.002 nats for each token.

Source: Herbster, Warmuth, "Tracking the Best Expert", 1998 (fixed share, with logarithmic loss).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STRENGTHS = (0.0, 0.1, 0.3, 1.0, 3.0)
FIRST_SHARES = (0.1, 0.15, 0.2, 0.4, 0.15)
"""Shares of the strengths in a text of which nothing is known."""
RETURNED = 0.002
"""Part of all shares that is divided up anew after each token."""

_INVERSE = np.array([1 / strength for strength in STRENGTHS[1:]])
_BACK = tuple(RETURNED * share for share in FIRST_SHARES)


class Trust:
    """The shares of the strengths in one text."""

    def __init__(self) -> None:
        self.shares: tuple[float, ...] = FIRST_SHARES

    def strength(self, total: float) -> float:
        """Return the strength that gives the next token the mixture's probabilities.

        Args:
            total: 1 + the sum of the memory's weights at this place.
        """
        weighted = np.array(self.shares[1:]) / (_INVERSE + (total - 1))
        return float(weighted.sum() / (self.shares[0] + (weighted * _INVERSE).sum()))

    def mixed_nats(self, nats: Floats, weights: NDArray[np.floating], totals: NDArray[np.floating]) -> Floats:
        """Return the nats of targets under the mixture, and learn from them: all [targets].

        Args:
            nats: of the targets, which follow one another in the text, under the network.
            weights: of the same in the memory, and the totals at their places.
        """
        logs, rates = rates_of(nats, weights, totals)
        mixed: Floats = -logs - np.log(self.learn(rates))
        return mixed

    def learn(self, rates: Floats) -> list[float]:
        """Return the mean rate of each target, and learn from them in turn.

        Args:
            rates: from `rates_of`, [targets, strengths].
        """
        means, shares = [], self.shares
        for row in rates.tolist():
            products = [share * rate for share, rate in zip(shares, row, strict=True)]
            means.append(sum(products))
            kept = (1 - RETURNED) / means[-1]
            shares = tuple(kept * own + back for own, back in zip(products, _BACK, strict=True))
        self.shares = shares
        return means


def rates_of(
    nats: Floats, weights: NDArray[np.floating], totals: NDArray[np.floating]
) -> tuple[Floats, Floats]:
    """Return the probabilities of targets at each strength, as exp(logs) * rates: logs [targets], rates
    [targets, strengths]. They may be too small for float64 themselves."""
    with np.errstate(divide="ignore"):  # log 0: a token that the memory knows nothing of
        log_weights = np.log(weights.astype(np.float64))
    logs = np.maximum(-nats, log_weights)
    own, found = np.exp(-nats - logs), np.exp(log_weights - logs)
    rest = totals.astype(np.float64) - 1
    rates = [own, *((inverse * own + found) / (inverse + rest) for inverse in _INVERSE)]
    return logs, np.stack(rates, axis=1)
