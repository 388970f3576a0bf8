"""How much the counts of each order are trusted: the constants u of reference.py.

Fitted by `python -m benchmarking.fit_ngrams` (docs/performance.md): the larger, the less a count changes.
"""

from __future__ import annotations

TRAINING = {2: 15.8, 3: 16.5, 4: 33.2, 6: 18.1, 8: 6.0, 12: 1.6, 16: 1.9, 24: 3.4, 32: 0.2}
"""Length of a context in the training text -> its factor."""
EARLIER = {1: 13.9, 2: 5.9, 3: 5.2, 4: 4.8, 6: 9.3, 8: 6.5, 12: 7.6, 16: 1.3, 24: 5.9, 32: 9.3}
"""Length of a context earlier in the same text -> its factor."""
