"""Windows of documents: sections that are one context of the model, each token a target exactly once."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transformerlm.evaluation.leaks import LeakedTokens
from transformerlm.evaluation.statistics import Floats
from transformerlm.evaluation.text import Part
from transformerlm.ngrams import NgramMemory, TextMemory
from transformerlm.tokenizer.vocabulary import Ids

BLOCK_BATCHES = 64
"""Number of batches whose windows are sorted by length together, which keeps padding low."""


class Window(NamedTuple):
    """A section of a document that is one context of the model."""

    document: int
    ids: Ids
    """Its tokens, followed by the target of the last one: [2 to context_length + 1]."""
    num_targets: int
    """The last `num_targets` targets count here; those before are context only."""
    is_leaked: NDArray[np.bool_] | None = None
    """For each of its tokens whether it stands in the training text; None: not looked for."""
    remembered: Floats | None = None
    """For each of its tokens its weight in the memory of n-grams, and the total: [2, tokens]; None: no
    memory."""


def document_windows(
    parts: Iterable[Part],
    encode: Callable[[Part], Ids],
    starts: Ids,
    ends: Ids,
    context_length: int,
    stride: int,
    has_start: Callable[[Part], bool] = lambda part: False,
    ngrams: NgramMemory | None = None,
) -> Iterator[Window]:
    """Yield the windows of all documents in order, each between `starts` and `ends`, zero or one id.

    Args:
        has_start: returns True for the first part of a document that begins with `starts` itself.
    """
    for document, group in itertools.groupby(parts, key=lambda part: part.document):
        own_parts = iter(group)
        first = next(own_parts)
        before = starts[:0] if has_start(first) else starts
        own_ids = map(encode, itertools.chain([first], own_parts))
        ids = itertools.chain([before], own_ids, [ends])
        cut = functools.partial(windows, document, context_length=context_length, stride=stride)
        yield from cut(ids) if ngrams is None else remembering(cut, ids, ngrams.text())


def windows(document: int, parts: Iterable[Ids], context_length: int, stride: int) -> Iterator[Window]:
    """Cut one document so that every token except its first is a target that counts exactly once.

    A window starts `stride` tokens after the previous one, and counts only targets that the previous one did
    not: each target has at least context_length - stride + 1 tokens of context, or all there are. With a
    context_length of 4 and a stride of 2, counted targets in brackets:

        a [b c d e]
            c d e [f g]
    """
    seen, num_counted = np.array([], np.uint32), 0
    for part in parts:
        seen = np.concatenate([seen, part])
        while len(seen) > context_length:
            yield Window(document, seen[: context_length + 1], context_length - num_counted)
            seen, num_counted = seen[stride:], context_length - stride
    if len(seen) - 1 > num_counted:
        yield Window(document, seen, len(seen) - 1 - num_counted)


def remembering(
    cut: Callable[[Iterable[Any]], Iterator[Window]], parts: Iterable[Ids], text: TextMemory
) -> Iterator[Window]:
    """Yield the windows of a text with what the memory of n-grams says of each of their tokens."""
    ids, again = itertools.tee(parts)
    pairs = itertools.tee(map(text.score, again))
    found = [cut(map(itemgetter(which), own)) for which, own in enumerate(pairs)]
    for window, *own in zip(cut(ids), *found, strict=True):
        yield window._replace(remembered=np.stack([part.ids for part in own]))


def marked_windows(
    cut: Callable[..., Iterator[Window]],
    parts: Iterable[Part],
    encode: Callable[[Part], Ids],
    starts: Ids,
    ends: Ids,
    leaked: LeakedTokens,
    ngrams: NgramMemory | None,
) -> Iterator[Window]:
    """Yield the windows of all documents with the marks of their tokens, which are cut in the same way."""
    own, again = itertools.tee(parts)
    masks = iter(leaked.masks)
    none = [np.zeros(len(ids), np.uint8) for ids in (starts, ends)]
    marks = cut(again, lambda part: next(masks).astype(np.uint8), *none)
    for window, mark in zip(cut(own, encode, starts, ends, ngrams=ngrams), marks, strict=True):
        yield window._replace(is_leaked=mark.ids.astype(np.bool_))


def blocks(all_windows: Iterable[Window], max_tokens: int) -> Iterator[list[Window]]:
    """Split the windows, in order, into blocks of about BLOCK_BATCHES batches of `max_tokens`."""
    block: list[Window] = []
    size = 0
    for window in all_windows:
        block.append(window)
        size += len(window.ids)
        if size >= BLOCK_BATCHES * max_tokens:
            yield block
            block, size = [], 0
    if block:
        yield block


def batches(block: Sequence[Window], max_tokens: int) -> Iterator[list[int]]:
    """Yield places in the block, those of windows of similar length together: as many as fit into
    `max_tokens`, padding included."""
    places = sorted(range(len(block)), key=lambda place: len(block[place].ids), reverse=True)
    first = 0
    while first < len(places):
        size = max(1, max_tokens // (len(block[places[first]].ids) - 1))
        yield places[first : first + size]
        first += size
