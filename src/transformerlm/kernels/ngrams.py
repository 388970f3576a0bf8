"""What followed the same n-grams: in the training text, and earlier in the text itself.

ngrams/reference.py defines the results. Importing this file imports numba, which is needed only to compile:
see library.py.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

import numpy as np
from numba import njit

from transformerlm.kernels.ngrams_layout import LONGEST, MAX_OCCURRENCES, ORDERS
from transformerlm.kernels.primitives import share_of

__all__ = ["ENTRIES", "OPTIONS", "parameters"]

i64 = np.int64
compiled = njit(error_model="numpy")
NUM_ORDERS = len(ORDERS)
IS_ORDER = tuple(length in ORDERS for length in range(LONGEST + 1))


@compiled
def token_before(tokens, order, entry, distance):
    """Return the token that stands `distance` tokens before the one of an entry; -1 before the first."""
    place = i64(order[entry]) - distance
    return i64(tokens[place]) if place >= 0 else i64(-1)


@compiled
def first_at_least(tokens, order, low, high, distance, wanted):
    """Return the first of the entries from `low` to `high` whose token at a distance is at least `wanted`."""
    while low < high:
        middle = (low + high) >> 1
        if token_before(tokens, order, middle, distance) < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def find_ranges(tokens, order, starts, text, end, ranges, ranges_at):
    """Write the ranges of entries whose contexts end as text[:end] does, for each of ORDERS that has one.

    Returns their number.
    """
    newest = i64(text[end - 1])
    low, high = starts[newest], starts[newest + 1]
    found = 0
    for length in range(2, min(LONGEST, end) + 1):
        wanted = i64(text[end - length])
        low = first_at_least(tokens, order, low, high, length, wanted)
        high = first_at_least(tokens, order, low, high, length, wanted + 1)
        if low == high:
            break
        if IS_ORDER[length]:
            ranges[ranges_at + 2 * found], ranges[ranges_at + 2 * found + 1] = low, high
            found += 1
    return found


@compiled
def find_earlier(text, previous, end, places, lengths, at):
    """Write the places of tokens that followed earlier occurrences of the last token of text[:end], the
    latest first, with the number of tokens before each that are as before `end`, at most LONGEST.

    Returns their number.
    """
    found = 0
    place = previous[end - 1]
    while place >= 0 and found < MAX_OCCURRENCES:
        length = 1
        while length < LONGEST and place >= length and text[place - length] == text[end - 1 - length]:
            length += 1
        places[at + found], lengths[at + found] = place + 1, length
        found += 1
        place = previous[place]
    return found


@compiled
def keep_longer(places, lengths, at, number, least):
    """Keep the places whose length is at least `least`; return their number."""
    kept = 0
    for i in range(at, at + number):
        if lengths[i] >= least:
            places[at + kept], lengths[at + kept] = places[i], lengths[i]
            kept += 1
    return kept


@compiled
def add_order(followers, at, number, factor, counts, kinds, weights, ids, offset, num_ids, total):
    """Mix an order into the weights: see ngrams/reference.py. Returns the number of ids and the new total.

    counts and weights [vocabulary] are 0 where nothing was counted; `offset` is that of this thread's part of
    these, of kinds and of ids. Weights are float64: a text of one token makes totals of 1e31.
    """
    num_kinds = 0
    for i in range(at, at + number):
        token = offset + i64(followers[i])
        if counts[token] == 0:
            kinds[offset + num_kinds] = followers[i]
            num_kinds += 1
        counts[token] += 1
    before = factor * num_kinds
    for i in range(offset, offset + num_kinds):
        token = offset + i64(kinds[i])
        if weights[token] == 0:
            ids[offset + num_ids] = kinds[i]
            num_ids += 1
        weights[token] += total * counts[token] / before
        counts[token] = 0
    return num_ids, total * (1 + number / before)


@compiled
def add_all(
    tokens, order, starts, text, previous, end, factors, ranges, places, lengths, followers,
    counts, kinds, weights, ids, vocab_size, part,
):  # fmt: skip
    """Write the weights of all tokens behind text[:end]; return the number of ids that have one, and the
    total."""
    at, offset, ranges_at = part * MAX_OCCURRENCES, part * vocab_size, part * 2 * NUM_ORDERS
    num_ranges = find_ranges(tokens, order, starts, text, end, ranges, ranges_at)
    num_earlier = find_earlier(text, previous, end, places, lengths, at)
    num_ids, total = 0, 1.0
    for which in range(NUM_ORDERS + 1):
        least = ORDERS[which - 1] if which > 0 else 1
        if 0 < which <= num_ranges:
            low, high = ranges[ranges_at + 2 * which - 2], ranges[ranges_at + 2 * which - 1]
            number = min(high - low, MAX_OCCURRENCES)
            for i in range(number):
                followers[at + i] = tokens[order[low + i * (high - low) // number]]
            num_ids, total = add_order(
                followers, at, number, factors[which], counts, kinds, weights, ids, offset, num_ids, total
            )
        num_earlier = keep_longer(places, lengths, at, num_earlier, least)
        if num_earlier > 0:
            for i in range(num_earlier):
                followers[at + i] = text[places[at + i]]
            factor = factors[NUM_ORDERS + 1 + which]
            num_ids, total = add_order(
                followers, at, num_earlier, factor, counts, kinds, weights, ids, offset, num_ids, total
            )
    return num_ids, total


def weights_behind(
    tokens, order, starts, text, previous, end, factors, ranges, places, lengths, followers,
    counts, kinds, weights, ids, vocab_size, found,
):  # fmt: skip
    """Write the ids that have a weight behind text[:end], and found[:1 + their number]: the total, then their
    weights. Returns their number. `weights` is all 0 before and after."""
    num_ids, total = add_all(
        tokens, order, starts, text, previous, end, factors, ranges, places, lengths, followers,
        counts, kinds, weights, ids, vocab_size, 0,
    )  # fmt: skip
    found[0] = total
    for i in range(num_ids):
        found[1 + i] = weights[ids[i]]
        weights[ids[i]] = 0
    return num_ids


def score_targets(
    tokens, order, starts, text, previous, first, last, factors, ranges, places, lengths, followers,
    counts, kinds, weights, ids, vocab_size, target_weights, totals, part, parts,
):  # fmt: skip
    """Write, for each place from `first` (at least 1) to `last` of a text, the weight of the token there and
    the total: both [last - first]."""
    start, stop = share_of(last - first, part, parts)
    offset = part * vocab_size
    for i in range(start, stop):
        num_ids, total = add_all(
            tokens, order, starts, text, previous, first + i, factors, ranges, places, lengths, followers,
            counts, kinds, weights, ids, vocab_size, part,
        )  # fmt: skip
        target_weights[i] = weights[offset + i64(text[first + i])]
        totals[i] = total
        for k in range(offset, offset + num_ids):
            weights[offset + i64(ids[k])] = 0
    return 0


_TYPES = {
    "u32*": "tokens order text followers kinds ids",
    "i32*": "previous lengths counts",
    "i64*": "starts ranges places",
    "f64*": "factors weights found target_weights totals",
}
_TYPE_OF = {name: kind for kind, names in _TYPES.items() for name in names.split()}

ENTRIES: dict[str, Callable[..., int]] = {"weights_behind": weights_behind, "score_targets": score_targets}
"""Kernels by name. Each returns an integer."""

OPTIONS: dict[str, object] = {}
"""Options of numba's compiler."""


def parameters(name: str) -> dict[str, str]:
    """Return the parameters of a kernel in order with their types: "u32*" is an array, "i64" a number."""
    return {parameter: _TYPE_OF.get(parameter, "i64") for parameter in signature(ENTRIES[name]).parameters}
