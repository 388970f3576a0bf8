"""Sizes that the kernel of n-grams and its callers share; imports no numba."""

from __future__ import annotations

ORDERS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Lengths of the contexts that are looked up, in tokens. Earlier in a text also contexts of one token are."""
LONGEST = ORDERS[-1]
MAX_OCCURRENCES = 256
"""Occurrences of a context that count: in the training text evenly spaced ones, in a text the latest."""
