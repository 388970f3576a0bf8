"""Ranks: the processes that train one model together, and how they communicate.

`Ranks` is a single process, in which nothing is exchanged. `collectives.ConnectedRanks` has the same methods
for several processes, so that code calls them without regard to the number of ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal

from transformerlm.distributed.world import World
from transformerlm.errors import Key, Problem, TransformerLMError

Backend = Literal["gloo", "nccl"]
"""Transport of tensors: "gloo" between CPUs; "nccl" also between GPUs, if there are any."""


class AgreedError(TransformerLMError):
    """The error of one rank, raised on every rank."""

    def __init__(self, problems: list[tuple[list[str], str, str]], exit_status: int) -> None:
        super().__init__([Problem(Key(*key), what, source) for key, what, source in problems])
        self.exit_status = exit_status


class LostRankError(TransformerLMError):
    """Another rank has ended before the work was done, or cannot be reached."""


class Ranks:
    """This process among all ranks, and its communication with them; this base class is a single process.

    All ranks call the same methods in the same order. Only bytes and numbers are exchanged, never objects, so
    that nothing is unpickled.
    """

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return self.world.rank

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.world.size

    @property
    def is_main(self) -> bool:
        """True if this is the rank that writes files and speaks to the user: rank 0."""
        return self.world.is_main

    def connected(self, backend: Backend = "gloo") -> AbstractContextManager[None]:
        """Connect the ranks, and disconnect them when the block ends, also on an error.

        Does nothing if they are connected already.

        Raises:
            ConfigError: the address of rank 0 is not set (MASTER_ADDR, MASTER_PORT).
            LostRankError: the ranks do not find each other.
        """
        return contextlib.nullcontext()

    def collective_errors(self) -> AbstractContextManager[None]:
        """Leave the block on all ranks together: without an error, or all with the error of one rank.

        The ranks exchange their errors at the end of the block. Work that may fail on one rank only belongs
        in such a block, and no rank may exchange anything else between the possible failure and the end of
        the block (or of a nested one).

        Raises:
            AgreedError: a rank raised a TransformerLMError or an OSError. (A single process raises its own
            error.)
        """
        return contextlib.nullcontext()

    def while_rank_0_works(self) -> AbstractContextManager[None]:
        """`collective_errors` for work of rank 0 alone that may take any time, while the other ranks wait.

        The work must not communicate.
        """
        return contextlib.nullcontext()

    def fail_together(self) -> AbstractContextManager[None]:
        """If any rank fails, at any place in the block, stop all ranks and raise the same error on each.

        For work that communicates by other means than these methods, as training does. A rank that fails
        writes its error to a shared store before it ends; the others notice broken connections and read it
        there.

        Raises:
            AgreedError: another rank's error.
            LostRankError: another rank has ended without writing an error.
        """
        return contextlib.nullcontext()

    def all_gather_bytes(self, data: bytes) -> list[bytes]:
        """Return every rank's `data`, in the order of the ranks."""
        return [data]

    def all_gather_numbers(self, numbers: Sequence[float]) -> list[list[float]]:
        """Return every rank's `numbers`, equally many of each, in the order of the ranks: a single
        exchange."""
        return [list(numbers)]

    def broadcast_bytes(self, data: bytes) -> bytes:
        """Return rank 0's `data`."""
        return data

    def barrier(self) -> None:
        """Wait until all ranks have called this."""

    def leave(self) -> None:
        """Final barrier at the end of all work; skipped if a rank has failed or is lost."""


SINGLE_PROCESS = Ranks()
"""The ranks of a process that runs alone."""
