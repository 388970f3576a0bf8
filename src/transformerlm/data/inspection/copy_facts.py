"""Facts about copies: clusters with their places."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from transformerlm.data.copies import NEAR, Copies, Link
from transformerlm.data.inspection.facts import Cluster, CopyFacts, CopyPair
from transformerlm.data.inspection.places import Places
from transformerlm.data.scan import Scan

MAX_CLUSTERS = 1000
"""Clusters of each kind that are described, the largest first; all are counted."""
MAX_DOCUMENTS = 100
"""Documents of a cluster that are named."""


def copy_facts(scan: Scan, copies: Copies, places: Places, *, has_near: bool) -> CopyFacts:
    """Return the facts about a corpus' copies."""
    describe = _Describer(scan, copies.links, places)
    return CopyFacts(
        exact_clusters=len(copies.exact),
        exact_copies=sum(len(cluster) - 1 for cluster in copies.exact),
        exact_bytes=sum(map(describe.spare_bytes, copies.exact)),
        exact=list(map(describe.cluster, describe.largest(copies.exact))),
        has_near=has_near,
        near_clusters=len(copies.near),
        near_copies=sum(len(cluster) - 1 for cluster in copies.near),
        near_bytes=sum(map(describe.spare_bytes, copies.near)),
        near=list(map(describe.cluster, describe.largest(copies.near))),
        threshold=NEAR,
        near_clusters_across=sum(map(describe.is_across, copies.near)),
        too_short=int(np.count_nonzero(scan.num_shingles == 0)),
    )


class _Describer:
    """Descriptions of clusters."""

    def __init__(self, scan: Scan, links: Sequence[Link], places: Places) -> None:
        self.scan, self.places = scan, places
        self.links = defaultdict[int, list[Link]](list)
        for link in links:
            self.links[link.document].append(link)

    def spare_bytes(self, cluster: Sequence[int]) -> int:
        """Return the bytes of all documents but the first."""
        return int(self.scan.num_bytes[list(cluster[1:])].sum())

    def is_across(self, cluster: Sequence[int]) -> bool:
        """Return True if the cluster is on both sides of the split."""
        return len(set(self.scan.is_validation[list(cluster)].tolist())) > 1

    def largest(self, clusters: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """Return the clusters with the most bytes that are there twice."""
        return sorted(clusters, key=lambda cluster: (-self.spare_bytes(cluster), cluster[0]))[:MAX_CLUSTERS]

    def cluster(self, documents: Sequence[int]) -> Cluster:
        """Return the description of one cluster."""
        shown = documents[:MAX_DOCUMENTS]
        pairs = [self._pair(link) for document in shown for link in self.links.get(document, ())]
        own = [self.places.of(document) for document in shown]
        return Cluster(own, len(documents), self.spare_bytes(documents), self.is_across(documents), pairs)

    def _pair(self, link: Link) -> CopyPair:
        return CopyPair(self.places.of(link.document), self.places.of(link.partner), link.similarity)
