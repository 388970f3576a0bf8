"""Record of what this machine's CPU is quick at, in one line."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from transformerlm.kernels.measured import measured_once
from transformerlm.progress import counted
from transformerlm.runtime.device import DTYPES, DtypeName
from transformerlm.runtime.speed import best_seconds, has_emulation, layer_products, probe, undisturbed

NUM_TOKENS = 2048
"""Rows of the products."""
Width = Literal["256", "1024"]
WIDTHS: tuple[Width, ...] = get_args(Width)
"""Widths of the square matrices, small and middling."""
NAMES: tuple[DtypeName, ...] = ("float32", "bfloat16")


@dataclass(frozen=True)
class Machine:
    """Measured speed of matrix products, and how they are shared, on a CPU."""

    num_threads: int
    spins: int | None
    """Polls of a waiting thread before it sleeps, on a quiet machine; None: as OpenMP has it."""
    flops_per_second: dict[DtypeName, tuple[float, ...]]
    """Precision -> FLOP/s of a linear layer, forward and backward, for each of WIDTHS; 0: emulated."""

    @property
    def bfloat16_speedup(self) -> float:
        """Speed of products in bfloat16 relative to float32, at the larger width; 0: emulated."""
        return self.flops_per_second["bfloat16"][-1] / self.flops_per_second["float32"][-1]

    @property
    def products(self) -> str:
        """The speed of products, for a person."""
        parts = (
            f"{name} {' / '.join(f'{flops / 1e9:.0f}' for flops in each) if any(each) else 'emulated'}"
            for name, each in self.flops_per_second.items()
        )
        return f"{', '.join(parts)} GFLOP/s at widths {' / '.join(WIDTHS)}"

    @property
    def waiting(self) -> str:
        """The time that a thread waits, in words."""
        return "" if self.spins is None else f"waiting threads poll {self.spins:,} times"

    def __str__(self) -> str:
        threads = counted(self.num_threads, "thread")
        return ", ".join(filter(None, (self.products, threads, self.waiting)))


def this_machine() -> Machine:
    """Return the record of this machine with PyTorch's present number of threads; measured once, and kept."""
    names = [f"{name} {width}" for name in NAMES for width in WIDTHS]
    conditions = {"work": ["machine", NUM_TOKENS], "threads": torch.get_num_threads()}
    seconds = measured_once(conditions, names, _product_seconds)
    assert seconds is not None
    flops = {
        name: tuple(_flops(int(width), seconds[f"{name} {width}"]) for width in WIDTHS) for name in NAMES
    }
    spins = os.environ.get("GOMP_SPINCOUNT", "")
    return Machine(torch.get_num_threads(), int(spins) if spins.isdigit() else None, flops)


def _flops(width: int, seconds: float) -> float:
    return 0.0 if seconds >= EMULATED_SECONDS else 6 * NUM_TOKENS * width**2 / seconds


EMULATED_SECONDS = 1e9
"""In place of the time of an emulated precision, which is not measured."""


def _product_seconds() -> dict[str, float]:
    with undisturbed():
        measured = NAMES[:1] if has_emulation(probe(NAMES)) else NAMES
        found = best_seconds(
            {
                f"{name} {width}": layer_products(NUM_TOKENS, int(width), int(width), DTYPES[name])
                for name in measured
                for width in WIDTHS
            }
        )
    return {f"{name} {width}": EMULATED_SECONDS for name in NAMES for width in WIDTHS} | found
