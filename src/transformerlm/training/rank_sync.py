"""What all ranks of a run go by, so that all do the same: rank 0's clock, and a signal to any of them."""

from __future__ import annotations

from itertools import chain

from transformerlm.distributed.collectives import all_gather_numbers
from transformerlm.distributed.world import SINGLE_PROCESS, World
from transformerlm.signals import StopSignals
from transformerlm.training.timers import KINDS, Clock


class Lockstep:
    """A clock and signals, as they were when all ranks last conferred; a single rank's are what they are now.

    Args:
        clock: this rank's own.
    """

    def __init__(self, clock: Clock, world: World = SINGLE_PROCESS) -> None:
        self._own_clock, self._world = clock, world
        self.clock = clock if world.size == 1 else Clock(lambda: 0.0)
        """Rank 0's: to decide by, and not to measure with."""
        self.signals = StopSignals()
        """This rank's: to be entered."""
        self._received: int | None = None

    @property
    def received(self) -> int | None:
        """The signal that ends the run; None while there is none."""
        return self.signals.received if self._world.size == 1 else self._received

    @property
    def exit_status(self) -> int:
        """128 + the signal's number, as shells count; 0 where none came."""
        return 128 + self.received if self.received else 0

    def sync(self) -> None:
        """Tell each other the time and of signals, in one small exchange; called right after a `spend`."""
        if self._world.size == 1:
            return
        own = [self.signals.received or 0, *chain(*self._own_clock.state().values())]
        told = all_gather_numbers(self._world, own)
        self._received = int(max(signal for signal, *_ in told)) or None
        numbers = iter(told[0][1:])
        self.clock.load({kind: (next(numbers), next(numbers)) for kind in KINDS})
