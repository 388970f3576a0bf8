"""Exact and near copies among the documents of a corpus.

Exact copies have the same bytes, told by a checksum of 128 bits. Near copies share at least NEAR of their
shingles (`shingles.py`): candidates are documents whose MinHash signatures agree in a band, and of each
candidate pair both texts are read again and compared, so that a reported pair is a near one. Clusters are the
connected components: two documents of a cluster may be near only by way of others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from transformerlm.data.scan import Scan, Texts
from transformerlm.data.shingles import Hashes, Signatures, bands, jaccard, sampling, shingle_set
from transformerlm.progress import Bar

NEAR = 0.8
"""Similarity from which two documents are near copies: shared shingles by those of either."""
DOUBT = 0.2
"""Pairs whose signatures put the similarity lower than NEAR by more than this are not read: five standard
errors."""
MAX_COMPARED = 64
"""Documents before it in a band with which a document is compared, the nearest ones first."""
CACHE_SHINGLES = 2**23
"""Shingles of documents that are kept for further comparisons."""


class Link(NamedTuple):
    """A near copy and the document that it was compared with."""

    document: int
    partner: int
    similarity: float


@dataclass(frozen=True)
class Copies:
    """Clusters of documents, each in the order of the corpus; the numbers are those of a `Scan`."""

    exact: Sequence[Sequence[int]]
    """Documents with the same content."""
    near: Sequence[Sequence[int]] = ()
    """Documents with nearly the same content; of exact copies the first stands for all."""
    links: Sequence[Link] = ()
    """A link per document of a near cluster but one, with which the cluster is connected."""


def exact_copies(scan: Scan) -> list[list[int]]:
    """Return the clusters of documents with the same bytes, in the order of their first."""
    order = np.lexsort((scan.digests[:, 1], scan.digests[:, 0]))  # stable: in the order of the corpus
    columns = scan.digests[order].T
    clusters = [order[first:stop].tolist() for first, stop in _runs(columns)]
    return sorted(clusters)


def find_copies(scan: Scan, *, near: bool, bar: Bar | None = None) -> Copies:
    """Return all clusters of exact copies and, if `near`, those of near copies; for these the texts are read.

    Args:
        scan: of the corpus; with signatures, if `near`.
        bar: advances by documents that are compared.
    """
    exact = exact_copies(scan)
    if not near:
        return Copies(exact)
    is_first = np.ones(len(scan), np.bool_)
    is_first[[document for cluster in exact for document in cluster[1:]]] = False
    documents = np.flatnonzero(is_first & (scan.num_shingles > 0))
    groups = list(_groups(scan.signatures, documents))
    with Texts(scan, {document for group in groups for document in group}) as texts:
        search = _NearSearch(scan, texts)
        for group in groups:
            search.compare(group)
            if bar is not None:  # a bar without a total is neither true nor false
                bar.update(len(group))
    return Copies(exact, search.components.clusters(), search.links)


def _groups(signatures: Signatures, documents: NDArray[np.int64]) -> Iterator[list[int]]:
    """Yield the documents that agree in a band, in order, band by band."""
    for keys in bands(signatures[documents]):
        order = np.argsort(keys, kind="stable")
        for first, stop in _runs([keys[order]]):
            yield documents[order[first:stop]].tolist()


def _runs(columns: Iterable[NDArray[np.uint64]]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of at least two rows that are equal in all of some sorted columns."""
    columns = list(columns)
    number = len(columns[0])
    differs = np.ones(number + 1, np.bool_)
    if number:
        differs[1:-1] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    edges = np.flatnonzero(differs)
    long = np.flatnonzero(np.diff(edges) > 1)
    yield from zip(edges[long].tolist(), edges[long + 1].tolist(), strict=True)


@dataclass
class Components:
    """Connected components of documents (union-find); each is named by its first document."""

    parents: dict[int, int] = field(default_factory=dict)

    def first(self, document: int) -> int:
        """Return the first document of a document's component."""
        parent = self.parents.get(document, document)
        while parent != document:
            above = self.parents.get(parent, parent)
            self.parents[document] = above
            document, parent = parent, above
        return document

    def join(self, one: int, other: int) -> None:
        """Join the components of two documents."""
        low, high = sorted((self.first(one), self.first(other)))
        self.parents[high] = low
        self.parents.setdefault(low, low)

    def clusters(self) -> list[list[int]]:
        """Return the components of two or more documents, in order."""
        found: dict[int, list[int]] = {}
        for document in sorted(self.parents):
            found.setdefault(self.first(document), []).append(document)
        return list(found.values())


class _NearSearch:
    """The comparison of candidates, and what was found so far."""

    def __init__(self, scan: Scan, texts: Texts) -> None:
        self.scan = scan
        self.components = Components()
        self.links: list[Link] = []
        self._rejected = set[tuple[int, int]]()
        self._sets = _SetCache(texts)

    def compare(self, documents: Sequence[int]) -> None:
        """Compare the documents that agree in a band: each with those before it to which it is not linked."""
        for place, document in enumerate(documents[1:], 1):
            for other in self._nearest(document, documents[max(0, place - MAX_COMPARED) : place]):
                if self.components.first(document) == self.components.first(other):
                    continue
                if (similarity := self._similarity(other, document)) >= NEAR:
                    self.components.join(other, document)
                    self.links.append(Link(document, other, similarity))

    def _nearest(self, document: int, others: Sequence[int]) -> list[int]:
        """Return those of `others` that may be near, the nearest first by their signatures."""
        first = self.components.first(document)
        others = [other for other in others if self.components.first(other) != first]
        if not others:
            return []
        signatures = self.scan.signatures
        estimates = (signatures[others] == signatures[document]).mean(axis=1)
        order = np.argsort(-estimates, kind="stable")
        return [others[index] for index in order if estimates[index] >= NEAR - DOUBT]

    def _similarity(self, other: int, document: int) -> float:
        """Return the similarity of two documents, read again; 0 if they have been compared before."""
        if (other, document) in self._rejected:
            return 0.0
        one_in = sampling(self.scan.num_shingles[[other, document]])
        found = jaccard(self._sets.get(other, one_in), self._sets.get(document, one_in))
        if found < NEAR:
            self._rejected.add((other, document))
        return found


class _SetCache:
    """Sets of shingles of the documents that were read last."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._sets: OrderedDict[tuple[int, int], Hashes] = OrderedDict()
        self._size = 0

    def get(self, document: int, one_in: int) -> Hashes:
        """Return the set of a document."""
        key = (document, one_in)
        if key not in self._sets:
            self._sets[key] = shingle_set(self._texts.parts(document), one_in)
            self._size += len(self._sets[key])
            while self._size > CACHE_SHINGLES and len(self._sets) > 1:
                _, oldest = self._sets.popitem(last=False)
                self._size -= len(oldest)
        self._sets.move_to_end(key)
        return self._sets[key]
