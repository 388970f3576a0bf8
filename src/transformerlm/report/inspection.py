"""The page of an inspection: one HTML file without a script, which asks for nothing.

The template escapes all text of the corpus; the page's own policy forbids every request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformerlm import __version__
from transformerlm.data.inspection.facts import Inspection, LeakFacts
from transformerlm.report.page import part, policy_hash, template
from transformerlm.report.text import count, num_bytes, percent, token_text
from transformerlm.storage.files import committed_file

MAX_CLUSTERS = 50
"""Clusters of each kind on the page."""

Row = tuple[str, str, float]
"""A bar: label, value, and length in percent of the longest."""


def write_inspection(found: Inspection, output: Path) -> int:
    """Write the page; return its size in bytes.

    Raises:
        OutputError: the disk is full.
        OSError: the page cannot be written for another reason.
    """
    content = inspection_html(found).encode("utf-8", "replace")
    with committed_file(output) as file:
        file.write(content)
    return len(content)


def inspection_html(found: Inspection) -> str:
    """Return the page."""
    style = part("page.css") + part("inspection.css")
    return template("inspection.html").render(
        found=found,
        subtitle=subtitle(found),
        leaked=f"{leaked(found.leaks)}" if found.leaks else "",
        figures=key_figures(found),
        **_corpus_rows(found),
        **_token_rows(found),
        exact_heading="Exact copies",
        near_heading=f"Near copies, similarity from {found.copies.threshold} on" if found.copies else "",
        max_clusters=MAX_CLUSTERS,
        policy=f"default-src 'none'; style-src '{policy_hash(style)}'",
        style=style,
        version=__version__,
    )


def subtitle(found: Inspection) -> str:
    """Return one line about the size of the text."""
    if found.corpus:
        return f"{found.corpus.documents:,} documents · {num_bytes(found.corpus.num_bytes)}"
    return found.tokens.source if found.tokens else "no text"


def leaked(facts: LeakFacts) -> str:
    """Return the leaked share in a sentence, without the full stop."""
    if not facts.runs:
        return f"No run of {facts.min_tokens} tokens of the validation text stands in the training text"
    return (
        f"{facts.leaked_bytes:,} of {facts.validation_bytes:,} validation bytes stand in the training text "
        f"in runs of at least {facts.min_tokens} tokens: {facts.runs:,} runs in {facts.documents:,} of "
        f"{facts.validation_documents:,} documents"
    )


def key_figures(found: Inspection) -> list[tuple[str, str, str]]:
    """Return label, value and note of the numbers at the top."""
    figures = []
    if found.corpus:
        splits = " + ".join(f"{split.documents:,} {split.split}" for split in found.corpus.splits)
        figures.append(("documents", f"{found.corpus.documents:,}", splits))
        invalid = found.corpus.invalid_bytes
        figures.append(("not UTF-8", f"{invalid:,}" if invalid else "none", "bytes"))
    if found.copies:
        copies = found.copies
        figures.append(
            _copies("exact copies", copies.exact_copies, copies.exact_clusters, copies.exact_bytes)
        )
        if copies.has_near:
            figures.append(
                _copies("near copies", copies.near_copies, copies.near_clusters, copies.near_bytes)
            )
    if found.tokens:
        tokens = found.tokens
        figures.append(("bytes per token", f"{tokens.bytes_per_token:.3f}", f"{tokens.vocab_size:,} ids"))
        figures.append(("unused ids", f"{tokens.unused_ids:,}", f"of {tokens.vocab_size:,}"))
    return figures


def _copies(label: str, copies: int, clusters: int, size: int) -> tuple[str, str, str]:
    note = f"in {clusters:,} cluster{'s' * (clusters != 1)}, {num_bytes(size)}"
    return label, f"{copies:,}" if copies else "none", note if copies else ""


def _corpus_rows(found: Inspection) -> dict[str, Sequence[Row]]:
    facts = found.corpus
    if facts is None:
        return {"lengths": [], "scripts": [], "others": []}
    lengths = {f"from {size:,} bytes": number for size, number in facts.length_histogram}
    return {
        "lengths": _bars(lengths, None),
        "scripts": _bars(facts.scripts, sum(facts.scripts.values())),
        "others": _bars(facts.other_characters, facts.characters),
    }


def _bars(counts: Mapping[str, int], total: int | None) -> list[Row]:
    """Return a row per count; its value is the share of `total`, if there is one."""
    most = max(counts.values(), default=1) or 1
    return [
        (name, f"{number:,}" if total is None else percent(number, total), 100 * number / most)
        for name, number in counts.items()
    ]


def _token_rows(found: Inspection) -> dict[str, Any]:
    facts = found.tokens
    if facts is None:
        return {"longest": [], "most_frequent": [], "unused": [], "documents": []}
    return {
        "longest": [(one, _shown(text), count(number)) for one, text, number in facts.longest],
        "most_frequent": [(one, _shown(text), count(number)) for one, text, number in facts.most_frequent],
        "unused": [(one, _shown(text), "") for one, text in facts.unused],
        "documents": [
            {
                "file": document.file,
                "document": document.document,
                "tokens": [(one, _shown(text)) for one, text in document.tokens],
            }
            for document in facts.documents
        ],
    }


def _shown(text: str) -> str:
    return token_text(text.encode())
