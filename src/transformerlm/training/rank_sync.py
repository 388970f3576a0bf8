"""Clock and stop signals that all ranks of a run share, so that all make the same decisions."""

from __future__ import annotations

from itertools import chain

from transformerlm.distributed.ranks import Ranks
from transformerlm.signals import StopSignals
from transformerlm.training.timers import KINDS, Clock


class RankSync:
    """Clock and signals of a single process.

    Args:
        clock: this process's own.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        """Clock for decisions. The work of a rank is measured with its own."""
        self.signals = StopSignals()
        """Signals that this process receives while the object is entered."""

    @property
    def received(self) -> int | None:
        """The signal that ends the run; None if there is none."""
        return self.signals.received

    @property
    def exit_status(self) -> int:
        """128 + the number of the signal, as in shells; 0 if none was received."""
        return 128 + self.received if self.received else 0

    def sync(self) -> None:
        """Exchange time and signals with the other ranks; called right after a `spend` of the clock."""


class SeveralRankSync(RankSync):
    """Rank 0's clock and any rank's signals, at the time of the last `sync`."""

    def __init__(self, clock: Clock, ranks: Ranks) -> None:
        super().__init__(Clock(lambda: 0.0))
        self._own_clock, self._ranks = clock, ranks
        self._received: int | None = None

    @property
    def received(self) -> int | None:
        """The signal that ends the run on all ranks; None if there is none."""
        return self._received

    def sync(self) -> None:
        """Exchange time and signals, in one collective."""
        own = [self.signals.received or 0, *chain(*self._own_clock.state().values())]
        found = self._ranks.all_gather_numbers(own)
        self._received = int(max(signal for signal, *_ in found)) or None
        numbers = iter(found[0][1:])
        self.clock.load({kind: (next(numbers), next(numbers)) for kind in KINDS})


def make_rank_sync(clock: Clock, ranks: Ranks) -> RankSync:
    """Make the RankSync of a single process, or of several ranks."""
    return RankSync(clock) if ranks.size == 1 else SeveralRankSync(clock, ranks)
