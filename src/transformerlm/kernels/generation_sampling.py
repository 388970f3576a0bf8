"""Sampling of ids from logits on a CPU: infer/sampling.py, which defines the results, in one call.

Importing this file imports numba, which is needed only to compile: see library.py.
"""

from __future__ import annotations

import numpy as np

from transformerlm.kernels.generation_layout import BIN_BITS, NUM_BINS
from transformerlm.kernels.primitives import (
    SMALLEST,
    ZERO,
    bits_of,
    compiled,
    exp,
    f32,
    float_of,
    i64,
    share_of,
    u32,
)

f64 = np.float64
SMALLEST_DIVISOR = 2.0**-126


@compiled
def smallest_of_largest(x, at, width, wanted, is_count, bins, bins_at):
    """Return the smallest of the `wanted` largest of `width` numbers from 0 to 1, and the total above it.

    The largest ones are the fewest whose total (with `is_count`: whose number) is at least `wanted`. Radix
    selection: the numbers are divided into bins by their upper bits, the bin at the edge by the next bits,
    and so on.
    """
    edge, above = u32(0), 0.0
    for shift in (u32(2 * BIN_BITS), u32(BIN_BITS), u32(0)):
        for place in range(NUM_BINS):
            bins[bins_at + place] = 0.0
        for i in range(width):
            bits = bits_of(x[at + i]) >> shift
            if bits >> u32(BIN_BITS) == edge:
                place = bins_at + i64(bits & u32(NUM_BINS - 1))
                bins[place] += 1.0 if is_count else f64(x[at + i])
        found = NUM_BINS - 1
        while found > 0 and above + bins[bins_at + found] < wanted:
            above += bins[bins_at + found]
            found -= 1
        edge = edge << u32(BIN_BITS) | u32(found)
    return float_of(edge), above


@compiled
def keep_largest(x, at, width, wanted, is_count, bins, bins_at):
    """Set all but the `wanted` largest numbers to 0; of equal ones at the edge the first are kept."""
    smallest, above = smallest_of_largest(x, at, width, wanted, is_count, bins, bins_at)
    each = 1.0 if is_count else f64(smallest)
    room = width if each == 0.0 else max(i64(np.ceil((wanted - above) / each)), 1)
    equals = 0  # counted first, without a branch: comparisons with the edge are unpredictable
    for i in range(width):
        equals += x[at + i] == smallest
        x[at + i] = x[at + i] if x[at + i] >= smallest else ZERO
    if equals > room:
        for i in range(width):
            if x[at + i] == smallest:
                room -= 1
                x[at + i] = smallest if room >= 0 else ZERO


@compiled
def argmax(logits, at, width):
    """Return the first id with the highest logit; -1 if a logit is NaN or the highest is infinite."""
    best, has_nan = i64(0), False
    for i in range(width):
        has_nan |= logits[at + i] != logits[at + i]
        best = i if logits[at + i] > logits[at + best] else best
    return -1 if has_nan or abs(logits[at + best]) == np.inf else best


@compiled
def sum_of(x, at, width):
    """Return the total of `width` numbers."""
    total = 0.0
    for i in range(width):
        total += f64(x[at + i])
    return total


@compiled
def draw(x, at, width, uniform):
    """Return the id at which the cumulative sum exceeds `uniform` times the total."""
    target, running, newest = f64(uniform) * sum_of(x, at, width), 0.0, i64(-1)
    for i in range(width):
        if x[at + i] > ZERO:
            running, newest = running + f64(x[at + i]), i
            if running > target:
                break
    return newest


ROUNDING = 8 * 2.0**-23
"""Tolerance of a nucleus' total, as in sampling.top_p_filter."""
MIN_TOTAL = 2.0**-60
"""Smallest total of a nucleus: more than 0, so that every nucleus has at least one token."""


def sample(
    logits, uniforms, ids, scratch, bins,
    rows, stride, width, temperature, top_k, top_p, min_p, part, parts,
):  # fmt: skip
    """Sample an id for each row of `width` logits, rows `stride` apart: sampling.sample_rows in one call.

    scratch: [parts, width]; bins: [parts, NUM_BINS]. top_k: 0 for all.
    """
    first, last = share_of(rows, part, parts)
    at, bins_at = part * width, part * NUM_BINS
    for row in range(first, last):
        source = row * stride
        best = argmax(logits, source, width)
        ids[row] = best
        if best < 0 or temperature == 0:
            continue
        highest, divisor = logits[source + best], f32(max(temperature, SMALLEST_DIVISOR))
        for i in range(width):
            power = (logits[source + i] - highest) / divisor
            scratch[at + i] = exp(power) if power > SMALLEST else ZERO
        if 0 < top_k < width:
            keep_largest(scratch, at, width, f64(top_k), True, bins, bins_at)
        if top_p < 1:
            wanted = max(top_p - ROUNDING, MIN_TOTAL) * sum_of(scratch, at, width)
            keep_largest(scratch, at, width, wanted, False, bins, bins_at)
        for i in range(width):
            scratch[at + i] = scratch[at + i] if scratch[at + i] >= f32(min_p) else ZERO
        ids[row] = draw(scratch, at, width, uniforms[row])
    return 0
