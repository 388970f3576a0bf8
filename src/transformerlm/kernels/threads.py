"""Waiting of the threads that PyTorch computes with on a CPU."""

import os

SPINS = 3000
"""How often a thread polls for work before it sleeps: some tens of microseconds."""


def sleep_soon() -> None:
    """Let waiting threads sleep soon. Call it before PyTorch is imported; the user's own settings stay.

    By itself GNU's OpenMP, which PyTorch brings along on Linux, looks for milliseconds. Where others compute
    too, the thread that is waited for may be waiting for this very processor (benchmarking/README.md).
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
