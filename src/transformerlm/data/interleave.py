"""The order in which sequences are taken from several corpora, so that the shares hold at every moment.

The j-th sequence of a corpus with share s is due at time (j + 1/2) / s, j = 0, 1, ..., and sequences are
taken in the order of these times; of equal times the first corpus comes first. Of the first n sequences a
corpus then has between n s - d and n s + d, with d = 1/2 + s (k - 2) / 2 for k corpora: at most 1/2 for two.

There is no state: the counts after any number of sequences are computed directly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


class Interleaving:
    """The order of the sequences of several corpora.

    Args:
        shares: of the corpora, all above 0; their sum is 1, except for rounding.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        self.shares = np.array(shares, np.float64)
        # The deviation d, rounded up with room for the rounding of float64.
        self._margins = (2 + self.shares * len(shares) / 2).astype(np.int64)

    def counts(self, number: int) -> Counts:
        """Return how many of the first `number` sequences are of each corpus, `[num_corpora]`."""
        # Fewer than there are, and the rest in order.
        fewer = np.maximum(0, (self.shares * number).astype(np.int64) - self._margins)
        rest = self._next(fewer, number - int(fewer.sum()))
        return np.asarray(fewer + np.bincount(rest, minlength=len(self.shares)))

    def corpora(self, first: int, number: int) -> tuple[NDArray[np.int64], Counts]:
        """Return the corpus of each of `number` sequences from `first` on, and `counts(first)`."""
        before = self.counts(first)
        return self._next(before, number), before

    def _next(self, counts: Counts, number: int) -> NDArray[np.int64]:
        """Return the corpora of the `number` sequences that come after `counts` of each."""
        enough = np.ceil(self.shares * number).astype(np.int64) + 2 * self._margins + 1
        corpus = np.repeat(np.arange(len(counts)), enough)
        place = np.concatenate([np.arange(size) for size in enough]) + counts[corpus]
        due = (place + 0.5) / self.shares[corpus]
        order = np.lexsort((corpus, due))
        return np.asarray(corpus[order[:number]])
