"""Batches of a run: each rank's share, on its device, prepared ahead where the device computes meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transformerlm.data import Prefetcher
from transformerlm.data.mixture_sampler import Sampler
from transformerlm.data.sampler import Batch
from transformerlm.distributed.ranks import Ranks
from transformerlm.runtime import Runtime


class Batches:
    """This rank's share of the batches of a sampler."""

    def __init__(self, sampler: Sampler, runtime: Runtime, ranks: Ranks) -> None:
        self.sampler, self.runtime, self.ranks = sampler, runtime, ranks
        self._prefetcher: Prefetcher | None = None

    def batch(self, number: int) -> Batch:
        """Return this rank's share of a batch, counted from 0, on the device."""
        if self._prefetcher:
            return self._prefetcher.batch(number)
        return self.sampler.batch(number, self.ranks.rank, self.ranks.size, self.runtime.device)

    @contextlib.contextmanager
    def prepared_ahead(self) -> Iterator[None]:
        """Prepare batches ahead in the block, unless the device is the processor that would prepare them."""
        if not self.runtime.asynchronous:
            yield
            return
        rank, size = self.ranks.rank, self.ranks.size
        with Prefetcher(lambda number: self.sampler.batch(number, rank, size), self.runtime.device) as opened:
            self._prefetcher = opened
            try:
                yield
            finally:
                self._prefetcher = None
