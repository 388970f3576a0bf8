"""Facts about token files: how the tokenizer fits the text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from transformerlm.data.inspection.facts import TokenDocument, TokenFacts
from transformerlm.data.inspection.token_view import TokenView
from transformerlm.progress import Bar

SHOWN_TOKENS = 60
"""Tokens of a document that are shown."""
MAX_UNUSED = 50
"""Ids that occur nowhere that are named."""


def token_facts(views: Sequence[TokenView], source: str, max_examples: int, bar: Bar) -> TokenFacts:
    """Count the tokens of all files; the bar advances by tokens."""
    counts = np.zeros(max(view.file.vocab_size for view in views), np.int64)
    for view in views:
        for _, part in view.parts():
            counts += np.bincount(part, minlength=len(counts))
            bar.update(len(part))
    first = views[0]
    num_bytes = sum(view.file.num_bytes for view in views)
    num_tokens = int(counts.sum()) - (int(counts[first.end_id]) if first.end_id is not None else 0)
    special = set(first.tokenizer.special_token_ids.values())
    unused = [token_id for token_id in np.flatnonzero(counts == 0).tolist() if token_id not in special]
    return TokenFacts(
        source=source,
        vocab_size=first.file.vocab_size,
        files={view.name: _sizes(view) for view in views},
        bytes_per_token=num_bytes / num_tokens if num_tokens else 0.0,
        unused_ids=len(unused),
        unused=[(token_id, first.text(token_id)) for token_id in unused[:MAX_UNUSED]],
        longest=_top(first, counts, np.where(counts > 0, first.token_bytes[: len(counts)], 0), max_examples),
        most_frequent=_top(first, counts, counts, max_examples),
        documents=[document for view in views for document in _documents(view)],
    )


def _sizes(view: TokenView) -> dict[str, int]:
    file = view.file
    return {"tokens": file.num_tokens, "documents": file.num_documents, "bytes": file.num_bytes}


def _top(
    view: TokenView, counts: NDArray[np.int64], values: NDArray[np.int64], number: int
) -> list[tuple[int, str, int]]:
    """Return the ids with the largest values, their texts and counts, without the token between documents."""
    order = [token_id for token_id in np.argsort(-values, kind="stable").tolist() if token_id != view.end_id]
    return [(one, view.text(one), int(counts[one])) for one in order[:number] if values[one] > 0]


def _documents(view: TokenView, number: int = 1) -> list[TokenDocument]:
    """Return the beginnings of the first documents."""
    found, start = [], 0
    ends = [*view.ends[:number].tolist(), view.file.num_tokens][:number]
    for index, end in enumerate(ends):
        stop = min(end + 1, start + SHOWN_TOKENS)
        found.append(TokenDocument(view.name, index + 1, view.texts(start, stop), end - start))
        start = end + 1
    return found
