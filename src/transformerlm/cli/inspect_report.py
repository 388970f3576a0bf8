"""The result of transformerlm-data inspect as lines to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformerlm.data.inspection.facts import (
    Cluster,
    CopyFacts,
    CorpusFacts,
    Example,
    Inspection,
    LeakFacts,
    TokenFacts,
)
from transformerlm.data.inspection.places import SNIPPET_CHARACTERS, snippet
from transformerlm.errors import one_line
from transformerlm.progress import counted, readable
from transformerlm.report.text import percent, token_text

WIDTH = 15
"""Columns of the names in front of the values."""
BAR = 30
"""Columns of the longest bar."""


def lines(found: Inspection, max_examples: int) -> Iterator[str]:
    """Return everything that was found, for people."""
    yield one_line(found.path)
    yield from (one_line(f"note: {note}") for note in found.notes)
    for part, heading in ((found.corpus, "text"), (found.copies, "copies"), (found.tokens, "tokens")):
        if part is not None:
            yield from ("", heading)
            yield from _PARTS[heading](part, max_examples)
    if found.tokens:
        yield from ("", "leakage")
        yield from leak_lines(found.leaks)


def row(name: str, value: str) -> str:
    """Return a name and a value in two columns, in one line whatever is in them."""
    return one_line(f"  {name:<{WIDTH}}{value}".rstrip())


def corpus_lines(facts: CorpusFacts, max_examples: int) -> Iterator[str]:
    """Yield lines about files and documents."""
    for kind in facts.files[:max_examples]:
        name = f"{kind.suffix or '(no suffix)'}" + (" as JSON lines" if kind.kind == "jsonl" else "")
        yield row(
            "files" if kind is facts.files[0] else "", f"{kind.number:,} {name}, {readable(kind.num_bytes)}"
        )
    if more := facts.files[max_examples:]:
        total = readable(sum(kind.num_bytes for kind in more))
        yield row("", f"{sum(kind.number for kind in more):,} with {len(more)} other suffixes, {total}")
    if facts.left_out:
        yield row("not read", ", ".join(f"{number:,} {kind}" for kind, number in facts.left_out.items()))
    if names := facts.files_without_documents:
        yield row("without text", f"{counted(len(names), 'file')}: {_listed(names, max_examples)}")
    is_divided = sum(split.documents for split in facts.splits) > facts.documents
    both = "; one is divided, with a part on each side" if is_divided else ""
    sizes = f"{readable(facts.num_bytes)}, {facts.characters:,} characters"
    yield row("documents", f"{facts.documents:,}, {sizes}{both}")
    for split in facts.splits:
        share = split.num_bytes / max(1, facts.num_bytes)
        yield row(f"  {split.split}", f"{split.documents:,}, {readable(split.num_bytes)} ({share:.1%})")
    yield from _length_lines(facts)
    yield row("scripts", _shares(facts.scripts))
    yield row("others", _shares(facts.other_characters, facts.characters))
    yield row("not UTF-8", f"{facts.invalid_bytes:,} bytes" if facts.invalid_bytes else "none")
    yield from (row("", f"{one.text} at byte {one.place.byte:,}: {one.place}") for one in facts.invalid)
    yield from _examples("longest lines", facts.longest_lines)
    if facts.near_empty_documents:
        yield row("near-empty", counted(facts.near_empty_documents, "document"))
        yield from _examples("", facts.near_empty)


def _length_lines(facts: CorpusFacts) -> Iterator[str]:
    yield row("lengths", ", ".join(f"{name} {readable(size)}" for name, size in facts.lengths.items()))
    most = max((number for _, number in facts.length_histogram), default=1)
    for size, number in facts.length_histogram:
        bar = "█" * max(number > 0, round(BAR * number / most))
        yield row("", f"{_power(size):>8} {bar} {number:,}")


def _power(size: int) -> str:
    """Format a power of two: `512 B`, `4 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} TiB"


def _shares(counts: Mapping[str, int], total: int = 0) -> str:
    total = total or sum(counts.values())
    return ", ".join(f"{name} {percent(count, total)}" for name, count in counts.items()) or "none"


def _listed(names: Sequence[str], number: int) -> str:
    more = f" and {len(names) - number:,} more" if len(names) > number else ""
    return ", ".join(names[:number]) + more


def _examples(name: str, examples: Sequence[Example]) -> Iterator[str]:
    for number, one in enumerate(examples):
        yield row("" if number else name, f"{one.size:,} bytes: {one.place}: {one.text}")


def copy_lines(facts: CopyFacts, max_examples: int) -> Iterator[str]:
    """Yield lines about exact and near copies."""
    yield row("exact", _copies(facts.exact_clusters, facts.exact_copies, facts.exact_bytes))
    yield from (line for one in facts.exact[:max_examples] for line in _cluster_lines(one, max_examples))
    if not facts.has_near:
        return
    yield row("near", _copies(facts.near_clusters, facts.near_copies, facts.near_bytes))
    yield from (line for one in facts.near[:max_examples] for line in _cluster_lines(one, max_examples))
    if facts.near_clusters_across:
        what = counted(facts.near_clusters_across, "near cluster is", "near clusters are")
        advice = "--data.near_duplicates=together keeps each on one side"
        yield row("", f"{what} in training and in validation; {advice}")


def _copies(clusters: int, copies: int, num_bytes: int) -> str:
    if not clusters:
        return "none"
    return f"{counted(copies, 'copy', 'copies')} in {counted(clusters, 'cluster')}, {readable(num_bytes)}"


def _cluster_lines(cluster: Cluster, max_examples: int) -> Iterator[str]:
    across = ", in training and validation" if cluster.is_across else ""
    if not cluster.pairs:
        names = [place.document_name for place in cluster.documents]
        yield row("", f"{cluster.size:,}{across}: {_listed(names, max_examples)}")
        return
    yield row("", f"{cluster.size:,}{across}:")
    for pair in cluster.pairs[:max_examples]:
        one, other = pair.document.document_name, pair.partner.document_name
        yield row("", f"  {pair.similarity:.2f} {one} and {other}")
    if (more := cluster.size - 1 - max_examples) > 0:
        yield row("", f"  and {more:,} more")


def token_lines(facts: TokenFacts, max_examples: int) -> Iterator[str]:
    """Yield lines about tokens."""
    yield row("from", facts.source)
    for name, sizes in facts.files.items():
        documents = counted(sizes["documents"], "document")
        numbers = f"{sizes['tokens']:,} tokens, {documents}, {readable(sizes['bytes'])}"
        yield row(name, numbers)
    yield row("bytes/token", f"{facts.bytes_per_token:.3f}")
    unused = ", ".join(token_text(text.encode()) for _, text in facts.unused[: 4 * max_examples])
    yield row(
        "unused ids", f"{facts.unused_ids:,} of {facts.vocab_size:,}" + (f": {unused}" if unused else "")
    )
    yield row("longest", _tokens(facts.longest))
    yield row("most frequent", _tokens(facts.most_frequent))
    for document in facts.documents:
        more = " ..." if document.num_tokens >= len(document.tokens) else ""
        yield row(document.file, f"document {document.document}, {document.num_tokens:,} tokens:")
        yield row("", apart(document.tokens) + more)


def _tokens(tokens: Sequence[tuple[int, str, int]]) -> str:
    return ", ".join(f"{token_text(text.encode())} ({number:,})" for _, text, number in tokens)


def apart(tokens: Sequence[tuple[int, str]]) -> str:
    """Return tokens in one line, with bars between them and their white space as symbols."""
    return "|".join(token_text(text.encode()) for _, text in tokens)


def leak_lines(facts: LeakFacts | None) -> Iterator[str]:
    """Yield lines about validation text that stands in the training text."""
    if facts is None:
        yield row("validation", "none: no text is held out")
        return
    yield row("leaked", leaked(facts))
    if not facts.are_within_documents:
        yield row("", "nothing marks the ends of documents: runs may reach over them")
    for leak in facts.longest:
        yield row("", f"{leak.num_tokens:,} tokens, {leak.num_bytes:,} bytes: {leak.validation}")
        some = (
            ""
            if leak.matched_tokens == leak.num_tokens
            else f"{leak.matched_tokens:,} of them from there on "
        )
        yield row("", f"  {some}stand in {leak.training}")
        yield row("", f"  {snippet(leak.text, 2 * SNIPPET_CHARACTERS)}")


def leaked(facts: LeakFacts) -> str:
    """Return the leaked share in a sentence."""
    if not facts.runs:
        return f"no run of {facts.min_tokens} tokens of the validation text stands in the training text"
    return (
        f"{facts.share:.2%} of the validation bytes ({facts.leaked_bytes:,} of {facts.validation_bytes:,}) "
        f"stand in the training text in runs of at least {facts.min_tokens} tokens: {facts.runs:,} runs in "
        f"{facts.documents:,} of {facts.validation_documents:,} documents"
    )


_PARTS: dict[str, Any] = {"text": corpus_lines, "copies": copy_lines, "tokens": token_lines}
