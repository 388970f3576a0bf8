"""Contestants of the work "machine" in bench_train: a training with and without what is measured here.

They run in processes of their own, so everything is imported inside: GNU's OpenMP reads its settings when
PyTorch is imported. Beside them run processes that only keep a processor busy.
"""

from __future__ import annotations

import atexit
import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

from transformerlm.config import ModelConfig, RuntimeConfig, TrainConfig, TrainingConfig

Run = Callable[[], object]


def fixed_steps(shape: ModelConfig, runtime: RuntimeConfig, batch_size: int, num_steps: int) -> Run:
    """Return a function that takes steps whose threads sleep soon and stay as many as [runtime] says."""
    from transformerlm.kernels.threads import sleep_soon

    sleep_soon()
    from benchmarking.train_jobs import our_step

    step = our_step(shape, runtime, batch_size)
    return lambda: [step() for _ in range(num_steps)]


def adaptive_steps(shape: ModelConfig, runtime: RuntimeConfig, batch_size: int, num_steps: int) -> Run:
    """Return a function that takes steps as transformerlm-train does, with all that "auto" stands for."""
    from transformerlm.kernels.threads import wait_as_measured

    wait_as_measured()
    import time

    from benchmarking.train_jobs import our_step
    from transformerlm.runtime import LoadWatch, ThreadAdapter, choose_precision, set_up_process
    from transformerlm.training.choices import resolve_runtime

    config = TrainConfig(model=shape, runtime=runtime, training=TrainingConfig(batch_size=batch_size))
    set_up_process(runtime)
    atexit.register(LoadWatch().__enter__().__exit__, None, None, None)
    precision = choose_precision(runtime, shape)
    resolved = resolve_runtime(config, runtime, precision, owns_process=True)
    assert isinstance(resolved.num_threads, int)
    step, adapter = our_step(shape, resolved, batch_size), ThreadAdapter(resolved.num_threads)
    steps, seconds = 0, 0.0

    def run() -> None:
        nonlocal steps, seconds
        for _ in range(num_steps):
            start = time.perf_counter()
            step()
            steps, seconds = steps + 1, seconds + time.perf_counter() - start
            adapter.after_steps(steps, seconds)

    return run


def contestants(
    shape: ModelConfig, runtime: RuntimeConfig, batch_size: int, num_steps: int
) -> dict[str, Callable[[], Run]]:
    """Return the contestants by name: functions that prepare them."""
    from functools import partial

    sizes = batch_size, num_steps
    kernels = replace(runtime, attention="kernels")
    return {
        "one thread": partial(fixed_steps, shape, replace(kernels, num_threads=1), *sizes),
        "not measured": partial(fixed_steps, shape, kernels, *sizes),
        "measured": partial(adaptive_steps, shape, runtime, *sizes),
    }


@contextlib.contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Context manager that keeps `number` processors busy, with a process each."""
    command = [sys.executable, "-S", "-E", "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
