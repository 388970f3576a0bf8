"""How much the counts of each order are trusted: the constants u of reference.py.

The larger, the less a count changes. Fitted to runs of six texts (docs/performance.md, "With the memory of
n-grams"); `python -m benchmarking.fit_ngrams` fits them anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from transformerlm.kernels.ngrams_layout import ORDERS

TRAINING = {2: 15.8, 3: 16.5, 4: 33.2, 6: 18.1, 8: 6.0, 12: 1.6, 16: 1.9, 24: 3.4, 32: 0.2}
"""Length of a context in the training text -> its factor."""
EARLIER = {1: 13.9, 2: 5.9, 3: 5.2, 4: 4.8, 6: 9.3, 8: 6.5, 12: 7.6, 16: 1.3, 24: 5.9, 32: 9.3}
"""Length of a context earlier in the same text -> its factor."""
LEAST, LARGEST = 1e-9, 1e12
"""Range of factors: the largest makes counts of no account, and even with the least ones no weight is too
large for float64."""


@dataclass(frozen=True)
class Factors:
    """A factor for each order, by default the fitted ones.

    Raises:
        ValueError: other orders than those that are looked up, or a factor out of range.
    """

    training: Mapping[int, float] = field(default_factory=lambda: TRAINING)
    """Length of a context in the training text, each of ORDERS -> its factor."""
    earlier: Mapping[int, float] = field(default_factory=lambda: EARLIER)
    """Length of a context earlier in the same text, 1 and each of ORDERS -> its factor."""

    def __post_init__(self) -> None:
        if tuple(self.training) != ORDERS or tuple(self.earlier) != (1, *ORDERS):
            raise ValueError(f"expected factors for {ORDERS} in order, and for 1 too earlier in the text")
        for factor in (*self.training.values(), *self.earlier.values()):
            if not LEAST <= factor <= LARGEST:
                raise ValueError(f"expected a factor from {LEAST} to {LARGEST}, got {factor}")

    def array(self) -> NDArray[np.float64]:
        """Return the factors as the kernels take them: those in the training text, of which there is none for
        one token (0), then those in the text."""
        return np.array([0.0, *self.training.values(), *self.earlier.values()])
