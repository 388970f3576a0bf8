"""Ranks: the processes that train one model together, and how they communicate.

`Ranks` is a single process, in which nothing is exchanged: code that can run on several ranks calls its
methods and need not ask how many there are. collectives.py has the same methods for several processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal

from transformerlm.distributed.world import World
from transformerlm.errors import Key, Problem, TransformerLMError

Backend = Literal["gloo", "nccl"]
"""Transport of tensors: "gloo" from CPU to CPU; "nccl", where there are GPUs, between those too."""


class AgreedError(TransformerLMError):
    """One rank's error, which all ranks know of and raise alike."""

    def __init__(self, problems: list[tuple[list[str], str, str]], exit_status: int) -> None:
        super().__init__([Problem(Key(*key), what, source) for key, what, source in problems])
        self.exit_status = exit_status


class LostRankError(TransformerLMError):
    """Another rank has ended before the work was done, or cannot be reached."""


class Ranks:
    """The ranks as one of them sees them; this class is a single process, which communicates with nobody.

    All ranks call the same methods in the same order. What travels is bytes and numbers, never objects, so
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
        """Connect the ranks, and disconnect them when the block ends, however it does.

        Where they are connected already nothing is done.

        Raises:
            ConfigError: nobody says where rank 0 is (MASTER_ADDR, MASTER_PORT).
            LostRankError: the ranks do not find each other.
        """
        return contextlib.nullcontext()

    def collective_errors(self) -> AbstractContextManager[None]:
        """Leave the block on all ranks together: without an error, or with that of the first that has one.

        A rank that fails says so where its block ends. So what may fail in one rank and not in another is
        done in a block of which the others reach the end, or that of one within it, before they exchange
        anything.

        Raises:
            AgreedError: a rank has raised a TransformerLMError or an OSError. A single process's errors
                pass as they are.
        """
        return contextlib.nullcontext()

    def while_rank_0_works(self) -> AbstractContextManager[None]:
        """`collective_errors` around work of rank 0 alone, however long it takes; the others wait.

        The work must not communicate.
        """
        return contextlib.nullcontext()

    def fail_together(self) -> AbstractContextManager[None]:
        """If any rank fails, at whatever place, stop all ranks and raise the same error on each.

        For work that communicates otherwise than by these methods, as training does. A rank leaves its
        error in writing before it ends; the others, whose connections break, find it there.

        Raises:
            AgreedError: another rank's error.
            LostRankError: another rank has ended without a word.
        """
        return contextlib.nullcontext()

    def all_gather_bytes(self, data: bytes) -> list[bytes]:
        """Return every rank's `data`, in the order of the ranks."""
        return [data]

    def all_gather_numbers(self, numbers: Sequence[float]) -> list[list[float]]:
        """Return every rank's `numbers`, as many of each, in the order of the ranks: a single exchange."""
        return [list(numbers)]

    def broadcast_bytes(self, data: bytes) -> bytes:
        """Return rank 0's `data`."""
        return data

    def barrier(self) -> None:
        """Wait until all ranks are here."""

    def leave(self) -> None:
        """Wait for each other at the end of all work, unless it has ended badly for one rank alone."""


SINGLE_PROCESS = Ranks()
"""The only process there is."""
