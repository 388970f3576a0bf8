"""Facts about leakage: which share of the validation text stands in the training text, and where."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from transformerlm.data.inspection.facts import Leak, LeakFacts, Place
from transformerlm.data.inspection.token_view import TokenView
from transformerlm.data.matches import Leaks, find_leaks
from transformerlm.progress import Bar

MAX_CHARACTERS = 400
"""Characters of a leak that are kept for the reader."""

Locate = Callable[[TokenView, int, int], Place]
"""Function that returns the place of a byte of a document, given its number from 0."""


def leak_facts(
    train: TokenView, val: TokenView, min_tokens: int, max_examples: int, locate: Locate, bar: Bar
) -> LeakFacts:
    """Find the leaks between two token files of one tokenizer; the bar advances by training tokens."""
    leaks = find_leaks(
        train.file.tokens,
        val.file.tokens,
        end_id=val.end_id,
        length=min_tokens,
        progress=bar.update,
    )
    runs = leaks.runs()
    leaked = np.flatnonzero(leaks.is_leaked)
    documents = {val.document_at(start)[0] for start, _ in runs}
    sizes = {run: val.num_bytes(*run) for run in runs}
    longest = sorted(runs, key=lambda run: (-sizes[run], run))[:max_examples]
    return LeakFacts(
        min_tokens=min_tokens,
        validation_bytes=val.file.num_bytes,
        leaked_bytes=sum(sizes.values()),
        validation_tokens=val.file.num_tokens,
        leaked_tokens=len(leaked),
        runs=len(runs),
        documents=len(documents),
        validation_documents=val.file.num_documents,
        are_within_documents=val.end_id is not None,
        longest=[_leak(train, val, leaks, run, sizes[run], locate) for run in longest],
    )


def _leak(
    train: TokenView, val: TokenView, leaks: Leaks, run: tuple[int, int], size: int, locate: Locate
) -> Leak:
    match = leaks.main_match(train.file.tokens, val.file.tokens, run, val.end_id)
    shown = val.file.tokens[match.position : match.position + min(match.num_tokens, MAX_CHARACTERS)]
    content = val.tokenizer.decode_bytes(shown)
    blank = len(content) - len(content.lstrip())  # places are those of the first thing to be seen
    return Leak(
        num_tokens=run[1] - run[0],
        num_bytes=size,
        validation=_place(val, match.position, blank, locate),
        training=_place(train, match.train_position, blank, locate),
        matched_tokens=match.num_tokens,
        text=content[blank:].decode(errors="replace")[:MAX_CHARACTERS],
    )


def _place(view: TokenView, position: int, skipped: int, locate: Locate) -> Place:
    number, start = view.document_at(position)
    return locate(view, number, view.num_bytes(start, position) + skipped)


def place_in_token_file(view: TokenView, document: int, byte: int) -> Place:
    """Return a place of which no more is known than the token file."""
    return Place(view.name, document + 1, None, byte)
