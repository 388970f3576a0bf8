"""Rank and world size of this process, from torchrun's environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass

from transformerlm.errors import ConfigError

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class World:
    """A process's place among several. Without arguments: a single process."""

    rank: int = 0
    """Number among all processes, from 0."""
    size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Number among those of this machine, from 0."""
    local_size: int = 1
    """Number of processes of this machine."""

    @property
    def is_main(self) -> bool:
        """True if this is the rank that writes files and speaks to the user: rank 0."""
        return self.rank == 0

    @classmethod
    def from_environment(cls) -> World:
        """Read the variables that torchrun sets; without them it is a single process.

        Raises:
            ConfigError: some are set and others not, or their values do not fit each other.
        """
        found = {name: os.environ[name] for name in (*_NAMES, "LOCAL_WORLD_SIZE") if name in os.environ}
        missing = [name for name in _NAMES if name not in found]
        if len(missing) == len(_NAMES):
            return cls()
        seen = f"environment: expected what torchrun sets, got {' '.join(map('='.join, found.items()))}"
        if missing:
            raise ConfigError(f"{seen} without {' and '.join(missing)}; set all of them, or none")
        if not all(value.isdecimal() for value in found.values()):
            raise ConfigError(f"{seen}; these are whole numbers")
        world = cls(*map(int, found.values()))
        if not (world.local_rank <= world.rank < world.size and world.local_size):
            raise ConfigError(f"{seen}; a rank is below the number of ranks")
        return world
