"""Clock, stop signals and requests that all ranks of a run share, so that all make the same decisions."""

from __future__ import annotations

import signal
from collections.abc import Callable
from itertools import chain

from transformerlm.control.requests import Kind, from_mask
from transformerlm.distributed.ranks import Ranks
from transformerlm.signals import StopSignals
from transformerlm.training.timers import KINDS, Clock


class RankSync:
    """Clock, signals and requests of a single process.

    Args:
        clock: this process's own.
        poll: returns what has been asked since its last call, as `RunControl.poll` does.
    """

    def __init__(self, clock: Clock, poll: Callable[[], int] = lambda: 0) -> None:
        self._poll, self._stop = poll, 0
        self.requested = 0
        """Return the requests that have not been taken, as a sum of `to_mask`."""
        self.clock = clock
        """Clock for decisions. The work of a rank is measured with its own."""
        self.signals = StopSignals()
        """Signals that this process receives while the object is entered."""

    @property
    def received(self) -> int | None:
        """The signal that ends the run; None if there is none."""
        return self.signals.received or self._stop or None

    @property
    def exit_status(self) -> int:
        """128 + the number of the signal, as in shells; 0 if none was received."""
        return 128 + self.received if self.received else 0

    def take_requests(self) -> list[Kind]:
        """Return what has been asked; the same on all ranks after a `sync`."""
        taken, self.requested = self.requested, 0
        return from_mask(taken)

    @property
    def is_asked_to_stop(self) -> bool:
        """True if a request ends the run, and not a signal."""
        return bool(self._stop)

    def stop(self) -> None:
        """End the run, on request, as SIGTERM does; called on all ranks."""
        self._stop = int(signal.SIGTERM)

    def sync(self) -> None:
        """Exchange time, signals and requests with the other ranks; called right after a `spend` of the
        clock."""
        self.requested |= self._poll()


class SeveralRankSync(RankSync):
    """Rank 0's clock and requests and any rank's signals, at the time of the last `sync`."""

    def __init__(self, clock: Clock, ranks: Ranks, poll: Callable[[], int] = lambda: 0) -> None:
        super().__init__(Clock(lambda: 0.0), poll)
        self._own_clock, self._ranks = clock, ranks
        self._received: int | None = None

    @property
    def received(self) -> int | None:
        """The signal that ends the run on all ranks; None if there is none."""
        return self._received or self._stop or None

    def sync(self) -> None:
        """Exchange time, signals and requests, in one collective."""
        own = [self.signals.received or 0, self._poll(), *chain(*self._own_clock.state().values())]
        found = self._ranks.all_gather_numbers(own)
        self._received = int(max(number for number, *_ in found)) or None
        self.requested |= int(found[0][1])
        numbers = iter(found[0][2:])
        self.clock.load({kind: (next(numbers), next(numbers)) for kind in KINDS})


def make_rank_sync(clock: Clock, ranks: Ranks, poll: Callable[[], int] = lambda: 0) -> RankSync:
    """Make the RankSync of a single process, or of several ranks."""
    return RankSync(clock, poll) if ranks.size == 1 else SeveralRankSync(clock, ranks, poll)
