"""Bits per byte of an n-gram model of bytes: how hard a text is to predict, in a second of counting.

What a Transformer reaches on a text is closely related to what short contexts tell about its next byte. The
scaling law (`law.py`) takes this number as its measure of the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]

ORDERS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
"""Lengths of the contexts, in bytes, from the shortest to the longest."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_LOW_BYTE = np.uint64(255)


def ngram_bits(train: bytes, text: bytes, orders: Sequence[int] = ORDERS) -> list[float]:
    """Return the bits per byte of `text` with contexts up to each length in `orders`, counted in `train`.

    Order k interpolates what followed the context of k bytes in `train` with the order before (Witten, Bell):

        p_k(x) = (count(context x) + kinds(context) p(x)) / (count(context) + kinds(context)),

    where kinds(context) is the number of different bytes that followed it. `text` teaches it nothing.
    Contexts are told apart by 56 bits of a hash.

    Source: Witten, Bell, "The zero-frequency problem", 1991, method C; in the recursive form of Chen,
    Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling", 1998, section 2.5.
    """
    seen, unseen = np.frombuffer(train, np.uint8), np.frombuffer(text, np.uint8)
    longest = max(orders)
    # What precedes the text: its first bytes need contexts too.
    after = np.concatenate([seen[-longest:], unseen])
    counts = np.bincount(seen, minlength=256) + 0.5
    probabilities = (counts / counts.sum())[unseen]
    bits = []
    for order in orders:
        if order < len(seen):
            contexts = _contexts(after, order)[-len(unseen) :]
            table = _Counts(_contexts(seen, order), seen[order:])
            probabilities = table.refined(probabilities, contexts, unseen)
        bits.append(float(-np.log2(probabilities).mean()))
    return bits


def _contexts(text: Bytes, order: int) -> Hashes:
    """Return a hash of the `order` bytes before each position from `order` on; its lowest byte is 0."""
    number = len(text) - order
    hashes = np.zeros(max(number, 0), np.uint64)
    for offset in range(order if number > 0 else 0):
        hashes = (hashes + text[offset : offset + number] + np.uint64(1)) * _MULTIPLIER
        hashes ^= hashes >> np.uint64(29)
    return hashes & ~_LOW_BYTE


class _Counts:
    """Number of times that each byte followed each context."""

    def __init__(self, contexts: Hashes, following: Bytes) -> None:
        self.pairs, self.counts = np.unique(contexts | following, return_counts=True)
        of_pairs = self.pairs & ~_LOW_BYTE
        starts = np.flatnonzero(np.concatenate([[True], of_pairs[1:] != of_pairs[:-1]]))
        self.contexts = of_pairs[starts]
        self.totals = np.add.reduceat(self.counts, starts)
        self.kinds = np.diff(np.concatenate([starts, [len(of_pairs)]]))

    def refined(
        self, shorter: npt.NDArray[np.float64], contexts: Hashes, following: Bytes
    ) -> npt.NDArray[np.float64]:
        """Return the probabilities of `following`, given those of the order before."""
        count = _looked_up(self.pairs, self.counts, contexts | following)
        total = _looked_up(self.contexts, self.totals, contexts)
        kinds = _looked_up(self.contexts, self.kinds, contexts)
        refined: npt.NDArray[np.float64] = (count + kinds * shorter) / np.maximum(total + kinds, 1)
        return np.where(total > 0, refined, shorter)


def _looked_up(keys: Hashes, values: npt.NDArray[np.int64], wanted: Hashes) -> npt.NDArray[np.int64]:
    """Return the value of each wanted key; 0 where it is not among the sorted `keys`."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
