"""Thinning of long series to what a screen can show: no spike disappears, and no gap closes.

In each of many equal parts of the horizontal axis the first, the last, the lowest and the highest point are
kept, which draws the same picture as all points do; and so is the first that is not finite, and both ends of
the widest gap.

Source: Jugel et al., "M4: A Visualization-Oriented Time Series Data Aggregation", 2014.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from transformerlm.report.metrics import Numbers

GAP = 4.0
"""Distance of two records, relative to that of their neighbours, from which something is missing."""


def kept_points(x: Numbers, y: Numbers, num_parts: int) -> NDArray[np.intp]:
    """Return the indices of the points to keep, ascending; all of them if they are few.

    Args:
        x: `[num_points]`, ascending.
        y: `[num_points]`.
        num_parts: equal parts that the range of `x` is divided into.
    """
    if len(x) <= 4 * num_parts:
        return np.arange(len(x))
    edges = np.linspace(x[0], x[-1], num_parts + 1)[1:-1]
    borders = [0, *np.searchsorted(x, edges, side="right").tolist(), len(x)]
    widths = np.where(gaps(x), np.diff(x, prepend=x[0]), 0.0)
    kept: set[int] = set()
    for start, stop in pairwise(borders):
        if start < stop:
            kept.update(start + index for index in _extremes(y[start:stop]))
            if widths[widest := start + int(widths[start:stop].argmax())]:
                kept |= {widest - 1, widest}
    return np.array(sorted(kept), dtype=np.intp)


def _extremes(y: Numbers) -> set[int]:
    """Return the indices of the first, last, lowest, highest and first not finite value."""
    kept, finite = {0, len(y) - 1}, np.isfinite(y)
    if not finite.all():
        kept.add(int((~finite).argmax()))
    if finite.any():
        kept |= {int(np.where(finite, y, np.inf).argmin()), int(np.where(finite, y, -np.inf).argmax())}
    return kept


def gaps(x: Numbers) -> NDArray[np.bool_]:
    """Return for each point if records are missing before it: its distance is large among its neighbours'.

    A change of the logging interval is no gap, since one of the neighbours has the new distance.
    """
    found = np.zeros(len(x), dtype=np.bool_)
    if len(x) < 4:
        return found
    distance = np.diff(x)
    beside = np.maximum(distance[:-2], distance[2:])
    found[2:-1] = distance[1:-1] > GAP * np.maximum(beside, 1.0)
    return found


def running_mean(y: Numbers, width: int) -> Numbers:
    """Return the mean of the finite values among the `width` before and after each, NaN where there is none.

    Near the ends it is over as many before as after, so that it begins and ends with the values themselves.

    Args:
        y: `[num_points]`.
    """
    finite = np.isfinite(y)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, y, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    index = np.arange(len(y))
    width_here = np.minimum(width, np.minimum(index, len(y) - 1 - index))
    start, stop = index - width_here, index + width_here + 1
    number = counts[stop] - counts[start]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(number > 0, (sums[stop] - sums[start]) / number, np.nan))
