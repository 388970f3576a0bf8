"""Documents that are left out or change sides because of their copies, as [data] asks for.

The decision is a function of the documents and the settings alone: not of the number of workers, the machine,
the tokenizer, or how the text is divided. It is made before the text is encoded, for all that read the corpus
(the tokenizer's training, token files, evaluation), by marking the chunks that hold such documents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformerlm.config import CorpusConfig
from transformerlm.data.copies import NEAR, Copies, find_copies
from transformerlm.data.division import Division
from transformerlm.data.documents import TRAIN, VAL, Chunk, Edits, Place, Split
from transformerlm.data.scan import Scan, scan
from transformerlm.data.selection_cache import cached
from transformerlm.data.shingles import NUM_BANDS, ROWS_PER_BAND, SHINGLE_CHARACTERS
from transformerlm.progress import Reporter, SilentReporter

METHOD_KEY, DECISION_KEY = "method of [data].near_duplicates", "copies of documents"
"""Keys of a sidecar's `made_from`."""
_COUNTED = ("exact clusters", "near clusters")
METHOD = (
    f"MinHash 1: shingles of {SHINGLE_CHARACTERS} characters, similarity {NEAR}, "
    f"{NUM_BANDS} bands of {ROWS_PER_BAND}"
)
"""Everything that decides what a near copy is; another version has another line."""


@dataclass(frozen=True)
class Selection:
    """What is decided about documents that are copies."""

    splits: Mapping[int, Split | None] = field(default_factory=dict)
    """Document -> its split, if that is not its own; None: left out."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """Numbers and a checksum of the decision, for the sidecar."""
    edits: Mapping[Place, Edits] = field(default_factory=dict)
    """`Chunk.end` -> `Chunk.edits` of the same chunk."""

    @classmethod
    def of(cls, division: Division, reporter: Reporter | None = None) -> Selection:
        """Decide about the copies in a corpus: read it once if the config asks for that, else do nothing.

        Args:
            division: the corpus, divided as where the selection is going to be applied.
            reporter: receives progress.

        Raises:
            DataError: the text does not have the format that the config describes.
        """
        if not is_wanted(division.config):
            return cls()

        def decide() -> dict[str, Any]:
            near = division.config.near_duplicates != "keep"
            num_bytes = division.corpora.num_bytes
            with (reporter or SilentReporter()).bar(num_bytes, "B", "looking for copies") as bar:
                found = scan(division, with_signatures=near, bar=bar)
            return selection_of(found, find_copies(found, near=near)).to_json()

        found = cls.from_json(cached(division, METHOD, decide))
        if reporter:
            reporter.say(str(found))
        return found

    def __str__(self) -> str:
        """What was decided, in one line."""
        out, moved = (self.record.get(f"documents {what}", 0) for what in ("left out", "moved"))
        clusters = [f"{self.record[key]:,} {key}" for key in _COUNTED if key in self.record]
        return (
            f"copies of documents: {', '.join(clusters)}; {out:,} left out, {moved:,} moved to the other side"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the selection as JSON values, for `from_json`."""
        return {
            "splits": list(self.splits.items()),
            "record": dict(self.record),
            "edits": list(self.edits.items()),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Selection:
        """Return the selection of `to_json`."""
        edits = {Place(*end): tuple((number, split) for number, split in own) for end, own in values["edits"]}
        return cls(dict(values["splits"]), values["record"], edits)

    def summary(self) -> dict[str, Any]:
        """Return what a sidecar's `made_from` has about the decision; empty if all documents are kept."""
        return {DECISION_KEY: self.record} if self.record else {}

    def apply(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Yield the chunks, those that hold documents of `splits` with their edits."""
        for chunk in chunks:
            edits = self.edits.get(chunk.end)
            yield chunk._replace(edits=edits) if edits else chunk


def is_wanted(config: CorpusConfig) -> bool:
    """Return True if the config asks for anything else than all documents on their own sides."""
    return config.duplicates != "keep" or config.near_duplicates != "keep"


def method_settings(config: CorpusConfig) -> dict[str, Any]:
    """Return {key: line} about how near copies are told, for records; empty if the config keeps them."""
    return {METHOD_KEY: METHOD} if config.near_duplicates != "keep" else {}


def selection_of(scan: Scan, copies: Copies) -> Selection:
    """Return the decision about clusters of copies.

    Where the sides of the split are given by place (`validation_corpus`, "tail"), not by each document's
    content, validation text stays, and its copies in the training text go.
    """
    config = scan.division.config
    sides = _Sides(scan, scan.division.is_side_given)
    if config.duplicates == "drop":
        for cluster in copies.exact:
            sides.keep_one(cluster)
    if config.near_duplicates != "keep":
        for cluster in with_exact(copies):
            sides.keep_one(cluster) if config.near_duplicates == "drop" else sides.bring_together(cluster)
    splits = dict(sorted(sides.changes.items()))
    record = {
        "exact clusters": len(copies.exact),
        **({"near clusters": len(copies.near)} if config.near_duplicates != "keep" else {}),
        "documents left out": sum(split is None for split in splits.values()),
        "documents moved": sum(split is not None for split in splits.values()),
        "checksum": _checksum(scan, splits),
    }
    return Selection(splits, record, _edits(scan, splits))


def with_exact(copies: Copies) -> list[list[int]]:
    """Return the near clusters with all exact copies of their documents, and the other exact clusters."""
    exact = {cluster[0]: cluster for cluster in copies.exact}
    near = [sorted(copy for one in cluster for copy in exact.pop(one, [one])) for cluster in copies.near]
    return sorted([*near, *map(list, exact.values())])


class _Sides:
    """The sides of the documents, and their changes."""

    def __init__(self, scan: Scan, is_side_given: bool) -> None:
        self.scan, self.is_side_given = scan, is_side_given
        self.changes: dict[int, Split | None] = {}

    def keep_one(self, cluster: Sequence[int]) -> None:
        """Leave out all but the first that is still there; where sides are given, one of validation first."""
        there = [document for document in cluster if self.changes.get(document, TRAIN) is not None]
        if self.is_side_given:
            there.sort(key=lambda document: not self.scan.is_validation[document])
        self.changes |= dict.fromkeys(there[1:])

    def bring_together(self, cluster: Sequence[int]) -> None:
        """Put a cluster that is on both sides on one.

        That of the document with the smallest checksum: it does not depend on the order of the files, and a
        large cluster is not more often for validation than a small one.
        """
        there = [document for document in cluster if self.changes.get(document, TRAIN) is not None]
        own = {document: bool(self.scan.is_validation[document]) for document in there}
        if len(set(own.values())) < 2:
            return
        if self.is_side_given:
            self.changes |= {document: None for document, is_validation in own.items() if not is_validation}
            return
        chosen = own[min(there, key=lambda document: self.scan.digests[document].tolist())]
        split: Split = VAL if chosen else TRAIN
        self.changes |= {
            document: split for document, is_validation in own.items() if is_validation != chosen
        }


def _checksum(scan: Scan, splits: Mapping[int, Split | None]) -> str:
    """Return a checksum of what happens to which content, in whatever order that stands in the corpus."""
    rows = sorted([*scan.digests[document].tolist(), split or ""] for document, split in splits.items())
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]


def _edits(scan: Scan, splits: Mapping[int, Split | None]) -> dict[Place, Edits]:
    """Return the edits of each chunk; those of a long document are in every chunk of its parts."""
    edits: dict[Place, list[tuple[int, Split | None]]] = {}
    for document, split in splits.items():
        first, last = int(scan.first_chunks[document]), int(scan.last_chunks[document])
        for chunk in scan.chunks[first : last + 1]:
            edits.setdefault(chunk.end, []).append((int(scan.ordinals[document]), split))
    return {end: tuple(own) for end, own in edits.items()}
