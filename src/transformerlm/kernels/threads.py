"""How the threads that PyTorch computes with on a CPU wait for each other."""

import os

SPINS = 3000
"""How often a thread looks whether there is something to do before it sleeps: some tens of microseconds."""


def sleep_soon() -> None:
    """Have threads that wait sleep soon. To be called before PyTorch is imported; what the user set stays.

    By itself GNU's OpenMP, which PyTorch brings along on Linux, looks for milliseconds. Where others compute
    too, the thread that is waited for may be waiting for this very processor (benchmarking/README.md).
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
