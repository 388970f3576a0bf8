"""The memory of n-grams as its definition: short, slow, and what the kernels are held against.

The probabilities of the model, p_0, are interpolated with the counts of longer and longer contexts:

    p_k(x) = (c_k(x) + u_k n_k p_{k-1}(x)) / (c_k + u_k n_k),

where the context is that of order k, c_k(x) the number of times that x followed it, c_k the number of times
that anything did, and n_k the number of different tokens that did. u_k is a constant of the order: how much
the counts are trusted beside what the model, which has learned from the same text, says already.

The order of the mixing is: one token earlier in this text; then for each length in ORDERS the training text,
and earlier in this text.

Every step multiplies all probabilities by one number and adds to those of the tokens that were counted. So in
the end

    p(x) = (p_0(x) + w(x)) / (1 + sum of w),

with weights w that do not depend on the model: these are what is computed. Where a text is scored, they count
at several strengths, which trust.py explains.

Source: Witten, Bell, "The zero-frequency problem", 1991, method C, with a factor for each order; in the
recursive form of Chen, Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling", 1998. A
network in place of the lowest order: Liu et al., "Infini-gram", 2024. Counts of the text so far: Kuhn, De
Mori, "A Cache-Based Natural Language Model for Speech Recognition", 1990.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from transformerlm.kernels.ngrams_layout import MAX_OCCURRENCES, ORDERS
from transformerlm.ngrams.factors import Factors
from transformerlm.ngrams.trust import FIRST_SHARES, RETURNED, STRENGTHS


def weights_behind(
    training: Sequence[int],
    text: Sequence[int],
    factors: Factors | None = None,
    num_counted: int | None = None,
) -> tuple[dict[int, float], float]:
    """Return the weights of the tokens that may follow `text`, and 1 + their sum.

    Args:
        num_counted: tokens of the text whose followers count; those behind them are context only. None: all.
    """
    weights: dict[int, float] = {}
    total = 1.0
    counted = len(text) if num_counted is None else num_counted
    for factor, followers in _followers(training, text, factors or Factors(), counted):
        before = factor * len(followers)
        for token, count in followers.items():
            weights[token] = weights.get(token, 0.0) + total * count / before
        total *= 1 + followers.total() / before
    return weights, total


def probabilities_along(training: Sequence[int], text: Sequence[int], model: Sequence[float]) -> list[float]:
    """Return the probability of each token of a text that is scored, but the first; see trust.py.

    Args:
        model: the network's probabilities of the same tokens.
    """
    shares, mixed = [*FIRST_SHARES], []
    for place, (own, token) in enumerate(zip(model, text[1:], strict=True), 1):
        weights, total = weights_behind(training, text[:place])
        weight = weights.get(token, 0.0)
        of_strengths = [(own + s * weight) / (1 + s * (total - 1)) for s in STRENGTHS]
        products = [share * found for share, found in zip(shares, of_strengths, strict=True)]
        mixed.append(sum(products))
        pairs = zip(products, FIRST_SHARES, strict=True)
        shares = [(1 - RETURNED) * product / mixed[-1] + RETURNED * first for product, first in pairs]
    return mixed


def _followers(
    training: Sequence[int], text: Sequence[int], factors: Factors, num_counted: int
) -> Iterator[tuple[float, Counter[int]]]:
    """Yield the factor of each order that has been found, with the tokens that followed and their counts."""
    all_entries = sorted_places(training)
    counted = range(1, min(len(text), num_counted + 1))
    newest = [place for place in counted if text[place - 1] == text[-1]][-MAX_OCCURRENCES:]
    for order, factor in factors.earlier.items():
        if order in factors.training:
            entries = [place for place in all_entries if _ends_alike(training, place, text, order)]
            if entries:
                number = min(len(entries), MAX_OCCURRENCES)
                chosen = [entries[i * len(entries) // number] for i in range(number)]
                yield factors.training[order], Counter(training[place] for place in chosen)
        places = [place for place in newest if _ends_alike(text, place, text, order)]
        if places:
            yield factor, Counter(text[place] for place in places)


def sorted_places(training: Sequence[int]) -> list[int]:
    """Return the places of tokens that have one before them, sorted by the tokens before them, the nearest
    first, as far as the longest of ORDERS; equal ones by place."""
    longest = ORDERS[-1]
    return sorted(
        range(1, len(training)), key=lambda place: [*training[max(0, place - longest) : place]][::-1]
    )


def _ends_alike(tokens: Sequence[int], place: int, text: Sequence[int], order: int) -> bool:
    """Return True if the `order` tokens before a place are the last ones of `text`."""
    return (
        place >= order
        and len(text) >= order
        and [*tokens[place - order : place]] == [*text[len(text) - order :]]
    )
