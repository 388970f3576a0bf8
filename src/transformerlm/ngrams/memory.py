"""Lookups in the training tokens and in a text so far, by compiled kernels."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transformerlm.kernels import libraries
from transformerlm.kernels.ngrams_layout import MAX_OCCURRENCES, ORDERS
from transformerlm.kernels.teams import run_on_team
from transformerlm.ngrams.factors import Factors
from transformerlm.ngrams.index import NgramIndex
from transformerlm.ngrams.trust import Trust, rates_of

Floats = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]

_FIRST_ROOM = 256
"""Tokens of a text for which there is room at first."""


class Found(NamedTuple):
    """The tokens that the memory has something to say about: p = (p_model + weight) / total."""

    ids: NDArray[np.uint32]
    """Each once."""
    weights: Floats
    """Above 0, one for each id."""
    total: float
    """1 + the sum of the weights."""


@dataclass(frozen=True)
class NgramMemory:
    """The memory of a run, which may be used for any number of texts at a time."""

    index: NgramIndex
    factors: Factors = field(default_factory=Factors)
    """How much the counts of each order are trusted."""

    def text(self, ids: Iterable[int] = (), num_threads: int = 1) -> TextMemory:
        """Return the memory of a text that begins with these tokens.

        Args:
            num_threads: for scoring.
        """
        text = TextMemory(self.index, self.factors, num_threads)
        text.extend(ids)
        return text

    def score(self, ids: Integers, num_threads: int = 1) -> tuple[Floats, Floats]:
        """Return the weight of each token of a text behind those before it, and the totals: both [num_ids].

        Before the first token nothing is known: its weight is 0 and its total 1.

        Raises:
            ValueError: ids outside of the vocabulary.
        """
        return self.text(num_threads=num_threads).score(ids)

    def score_documents(
        self, tokens: Integers, separator: int | None, num_threads: int = 1
    ) -> tuple[Floats, Floats]:
        """Return what `score` does of each document of a token file, together: both [num_tokens].

        Raises:
            ValueError: ids outside of the vocabulary.
        """
        weights, totals = np.zeros(len(tokens)), np.ones(len(tokens))
        text = self.text(num_threads=num_threads)
        for first, last in documents_of(tokens, separator):
            text.clear()
            found = text.score(tokens[first : last + 1])
            weights[first + 1 : last + 1], totals[first + 1 : last + 1] = (part[1:] for part in found)
        return weights, totals

    def mixed_nats(
        self, nats: Floats, tokens: Integers, separator: int | None, num_threads: int = 1
    ) -> Floats:
        """Return the nats of all tokens of a token file but the first, mixed with the memory; see trust.py.

        Args:
            nats: of the same under the network, [num_tokens - 1].

        Raises:
            ValueError: ids outside of the vocabulary.
        """
        weights, totals = self.score_documents(tokens, separator, num_threads)
        logs, rates = rates_of(nats, weights[1:], totals[1:])
        learned = (Trust().learn(rates[first:last]) for first, last in documents_of(tokens, separator))
        mixed: Floats = -logs - np.log(list(itertools.chain(*learned)))
        return mixed


def documents_of(tokens: Integers, separator: int | None) -> Iterator[tuple[int, int]]:
    """Yield the places of the first and the last token of each document of a token file.

    A document begins with the separator behind the one before, which was its last token too.
    """
    ends = np.flatnonzero(tokens == separator) if separator is not None else np.zeros(0, np.int64)
    inner = (end for end in ends.tolist() if 0 < end < len(tokens) - 1)
    return itertools.pairwise([0, *inner, len(tokens) - 1])


class TextMemory:
    """The memory of one text: all tokens so far, also those that have left the model's context."""

    def __init__(self, index: NgramIndex, factors: Factors | None = None, num_threads: int = 1) -> None:
        self._index, self._length, self._num_threads = index, 0, num_threads
        self._factors = (factors or Factors()).array()
        self._text, self._previous = np.zeros(_FIRST_ROOM, np.uint32), np.zeros(_FIRST_ROOM, np.int32)
        self._latest = np.full(index.vocab_size, -1, np.int32)
        """Place of each token's latest occurrence; -1: none."""
        self._scratch = _scratch(index.vocab_size, num_threads)
        self._found = np.zeros(1 + index.vocab_size)
        self._ids = self._scratch[-1]

    def clear(self) -> None:
        """Begin another text."""
        self._length = 0
        self._latest.fill(-1)

    def extend(self, ids: Iterable[int], *, counts: bool = True) -> None:
        """Append tokens to the text.

        Args:
            counts: what follows them counts as seen earlier in the text; otherwise they are context only.

        Raises:
            ValueError: ids outside of the vocabulary; nothing is appended.
        """
        known = _checked(np.array([*ids], np.int64), self._index.vocab_size)
        self._make_room(len(known))
        for token in known.tolist():
            self._text[self._length], self._previous[self._length] = token, self._latest[token]
            if counts:
                self._latest[token] = self._length
            self._length += 1

    def score(self, ids: Integers) -> tuple[Floats, Floats]:
        """Append tokens; return the weight of each behind those before it, and the totals: both [num_ids].

        Before the first token of a text nothing is known: its weight is 0 and its total 1.

        Raises:
            ValueError: ids outside of the vocabulary.
        """
        before = self._length
        self.extend(ids.tolist())
        weights, totals = np.zeros(len(ids)), np.ones(len(ids))
        first = max(1, before)
        if self._length > first:
            vocab_size, own = self._index.vocab_size, slice(first - before, None)
            arrays = *_of_index(self._index), self._text, self._previous
            scratch = self._factors, *self._scratch
            results = weights[own], totals[own]
            values = (
                *(array.ctypes.data for array in arrays),
                *(first, self._length),
                *(array.ctypes.data for array in scratch),
                vocab_size,
                *(array.ctypes.data for array in results),
            )
            run_on_team(libraries.NGRAMS.kernels().score_targets, self._num_threads, *values)
        return weights, totals

    def _make_room(self, number: int) -> None:
        """Make room for `number` more tokens, and at least twice as many as there are, if there is none."""
        if self._length + number > len(self._text):
            room = max(2 * self._length, self._length + number)
            self._text, self._previous = (
                np.concatenate([own[: self._length], np.zeros(room - self._length, own.dtype)])
                for own in (self._text, self._previous)
            )

    def find(self) -> Found:
        """Return what may follow the text."""
        if not self._length:
            return Found(self._ids[:0], self._found[1:1], 1.0)
        index, scratch = self._index, self._scratch
        number = libraries.NGRAMS.kernels().weights_behind(
            **dict(zip(("tokens", "order", "starts"), _of_index(index), strict=True)),
            **dict(zip(_SCRATCH, scratch, strict=True)),
            text=self._text,
            previous=self._previous,
            end=self._length,
            factors=self._factors,
            vocab_size=index.vocab_size,
            found=self._found,
        )
        return Found(self._ids[:number].copy(), self._found[1 : 1 + number].copy(), float(self._found[0]))


_SCRATCH = ("ranges", "places", "lengths", "followers", "counts", "kinds", "weights", "ids")


def _scratch(vocab_size: int, parts: int) -> list[NDArray[Any]]:
    """Return the memory that the kernels work in, in the order of _SCRATCH; all of it is 0."""
    sizes = {
        **dict.fromkeys(("counts", "kinds", "weights", "ids"), vocab_size),
        **dict.fromkeys(("places", "lengths", "followers"), MAX_OCCURRENCES),
        "ranges": 2 * len(ORDERS),
    }
    dtypes: dict[str, type[np.generic]] = {"ranges": np.int64, "places": np.int64, "weights": np.float64}
    dtypes |= {"lengths": np.int32, "counts": np.int32}
    return [np.zeros(parts * sizes[name], dtypes.get(name, np.uint32)) for name in _SCRATCH]


def _checked(ids: Integers, vocab_size: int) -> NDArray[np.uint32]:
    """Return ids as the kernels take them, which would read and write outside of their memory for others.

    Raises:
        ValueError: ids outside of the vocabulary.
    """
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise ValueError(f"expected ids from 0 to {vocab_size - 1}, got {ids.min()} to {ids.max()}")
    return ids.astype(np.uint32)


def _of_index(index: NgramIndex) -> tuple[NDArray[Any], ...]:
    return index.tokens, index.order, index.starts
