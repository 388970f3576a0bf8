"""Workers: the processes in which runs are made, and the devices that they have.

A worker is `transformerlm-train` (or `transformerlm-eval`) in a process group of its own, so that Ctrl-C
reaches the scheduler alone. On Linux the system kills it when the scheduler ends, however that ends;
elsewhere it goes on with its run, whose folder is locked until then.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformerlm.config import RuntimeConfig
from transformerlm.limits import available_cores

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
CPU = "cpu"
PR_SET_PDEATHSIG = 1
"""Option of prctl(2): the signal that this process gets when its parent ends."""


@dataclass(frozen=True)
class Slot:
    """A place for one worker."""

    device: str
    """For people, such as "cpu" or "cuda 1"."""
    environment: Mapping[str, str]
    """Variables that a worker has in addition to those of this process."""


class Process(Protocol):
    """A running worker."""

    def poll(self) -> int | None:
        """Return the exit status, or minus the signal that ended it; None while it runs."""

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens if it has ended."""


Launch = Callable[[Sequence[str], Mapping[str, str], Path], Process]
"""Function that starts `python -m WORDS...` with these variables, and appends what it prints to a file."""


@dataclass(frozen=True)
class Workplace:
    """Where and how workers are started."""

    slots: Sequence[Slot]
    runtime: Mapping[str, Any]
    """See `own_runtime`."""
    launch: Launch


def launch(words: Sequence[str], environment: Mapping[str, str], messages: Path) -> Process:
    """Start a worker that ends with this process; what it prints to stderr is appended to `messages`.

    Its stdout, the metrics of a console, is not kept: metrics.jsonl has them.
    """
    with messages.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
            process_group=0 if os.name == "posix" else None,
            # Between fork and exec. The scheduler has one thread, and this takes no lock.
            preexec_fn=end_with_parent() if sys.platform == "linux" else None,
        )


def end_with_parent() -> Callable[[], None]:
    """Return a function for a child process, which is then killed when the thread that forked it ends."""
    parent, prctl = os.getpid(), _prctl()

    def apply() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended before
            os._exit(1)

    return apply


@functools.cache
def _prctl() -> Any:
    return ctypes.CDLL(None, use_errno=True).prctl


def slots_of(runtime: RuntimeConfig, workers_per_device: int) -> list[Slot]:
    """Return the places for workers: so many on each GPU or, where there is none, on the CPU."""
    devices = _cuda_devices() if runtime.device in ("auto", "cuda") else []
    if not devices:
        is_cpu = runtime.device == "cpu" or (runtime.device == "auto" and sys.platform != "darwin")
        return [Slot(CPU if is_cpu else runtime.device, {})] * workers_per_device
    return [Slot(f"cuda {one}", {VISIBLE_DEVICES: one}) for _ in range(workers_per_device) for one in devices]


def own_runtime(slots: Sequence[Slot]) -> dict[str, Any]:
    """Return the keys of [runtime] by which runs in these slots keep to a number of threads.

    Otherwise the number follows the other work on the machine, and with it the last bits of the results.
    Several workers of a CPU have equal parts of its cores; one alone takes what is fastest for its model.
    """
    if slots[0].device != CPU:
        return {}
    if len(slots) > 1:
        return {"num_threads": max(1, available_cores() // len(slots))}
    return {"deterministic": True}


def _cuda_devices() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if VISIBLE_DEVICES in os.environ:
        words = [word.strip() for word in os.environ[VISIBLE_DEVICES].split(",")]
        return [word for word in words if word not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
