"""Spin time of PyTorch's CPU threads while they wait for work."""

import os

SPINS = 3000
"""Number of times that a thread polls for work before it sleeps: some tens of microseconds."""


def sleep_soon() -> None:
    """Make waiting threads sleep soon. Call it before PyTorch is imported; the user's own settings take
    precedence.

    By default GNU's OpenMP, which PyTorch includes on Linux, polls for milliseconds. On a busy machine the
    thread that is waited for may itself be waiting for the processor of the polling one
    (benchmarking/README.md).
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
