"""Time of shared work by how often waiting threads poll, measured in small processes without PyTorch.

OpenMP reads the number of polls once, so each number needs a process of its own. Such a process loads only
the OpenMP library that PyTorch ships, and shares trivial work with gaps as they lie between the products of a
training step.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args

from transformerlm.kernels.load import is_quiet, read_load

Polls = Literal["3000", "30000", "300000"]
SPINS: tuple[Polls, ...] = get_args(Polls)
"""Numbers of polls to choose from: some tens of microseconds to some milliseconds, OpenMP's own default."""
ROUNDS, SECONDS = 2, 0.06
"""Number of turns of each number of polls, and the duration of one."""

PROBE = """
import ctypes, sys, time
path, threads, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
library = ctypes.CDLL(path)
nothing = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p)
parallel, now = library.GOMP_parallel, time.perf_counter
numbers = ctypes.c_uint(threads), ctypes.c_uint(0)
parallel(nothing, None, *numbers)
total, count, end = 0.0, 0, now() + seconds
while now() < end:
    for gap in (20e-6, 50e-6, 200e-6):
        start = now()
        while now() - start < gap:
            pass
        start = now()
        parallel(nothing, None, *numbers)
        total, count = total + now() - start, count + 1
print(total / count)
"""


def measured_spins(num_threads: int) -> dict[Polls, float] | None:
    """Return the seconds per piece of shared work for each number of polls, the best of their turns.

    None if the machine has other work meanwhile, or does not tell, or no GNU OpenMP is found.
    """
    path = openmp_path()
    if path is None or not is_quiet():
        return None
    before, best = read_load(), dict.fromkeys(SPINS, math.inf)
    for _ in range(ROUNDS):
        for polls in SPINS:
            best[polls] = min(best[polls], seconds_of_piece(path, num_threads, polls))
    return best if is_quiet(before) and max(best.values()) < math.inf else None


def openmp_path() -> Path | None:
    """Return the path of GNU's OpenMP library that PyTorch ships, without importing PyTorch."""
    found = importlib.util.find_spec("torch") if sys.platform == "linux" else None
    folders = found.submodule_search_locations if found else None
    return next(iter(sorted(Path(folders[0], "lib").glob("libgomp*.so*"))), None) if folders else None


def seconds_of_piece(path: Path, num_threads: int, polls: Polls) -> float:
    """Return the mean seconds of a piece of shared work in a process of its own; infinite if it fails.

    Args:
        path: of GNU's OpenMP library.
    """
    # -S and -E: without site-packages and settings of Python, which take longer to load than to measure.
    command = [sys.executable, "-S", "-E", "-c", PROBE, str(path), str(num_threads), str(SECONDS)]
    environment = {**os.environ, "GOMP_SPINCOUNT": polls}
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=5, check=True)
        return float(done.stdout)
    return math.inf
