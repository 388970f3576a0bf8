"""Batches prepared ahead, in pinned memory, by a thread, while a device computes.

A batch is a pure function of its step, so nothing is saved for a resumed run, and a run that goes back or
leaves batches out asks for another step: what was prepared is dropped, and the thread begins there.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import torch

from transformerlm.data.sampler import Batch

DEPTH = 2
"""Batches that are ready or being prepared: one is taken while the next one is made."""


class Prefetcher:
    """Batches by step, of which the next ones are prepared by a thread. Use it in a `with` block.

    An error in preparing a batch is raised when it is asked for.

    Args:
        make: returns the batch of a step on the CPU; called on the thread, one step at a time.
        device: where batches are wanted. To CUDA they are copied from pinned memory, for which the host does
            not wait.
    """

    def __init__(self, make: Callable[[int], Batch], device: torch.device, depth: int = DEPTH) -> None:
        self._make, self._device, self._depth = make, device, depth
        self._thread = ThreadPoolExecutor(1, "batches", *_thread_device(device))
        self._ahead: deque[tuple[int, Future[Batch]]] = deque()

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, and let the thread prepare those after it."""
        if not self._ahead or self._ahead[0][0] != step:
            self._drop()
            self._submit(step)
        _, prepared = self._ahead.popleft()
        last = self._ahead[-1][0] if self._ahead else step
        for number in itertools.islice(itertools.count(last + 1), self._depth - len(self._ahead)):
            self._submit(number)
        inputs, targets = prepared.result()
        # PyTorch gives pinned memory to others only after the copies from it.
        return inputs.to(self._device, non_blocking=True), targets.to(self._device, non_blocking=True)

    def close(self) -> None:
        """End the thread, after the batch that it is preparing."""
        self._drop()
        self._thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, step: int) -> None:
        self._ahead.append((step, self._thread.submit(self._prepare, step)))

    def _prepare(self, step: int) -> Batch:
        inputs, targets = self._make(step)
        if self._device.type == "cuda":
            return inputs.pin_memory(), targets.pin_memory()
        return inputs, targets

    def _drop(self) -> None:
        while self._ahead:
            self._ahead.pop()[1].cancel()


def _thread_device(device: torch.device) -> tuple[Any, ...]:
    """Return what a new thread has to call, and with what: it begins with CUDA's first device as its own."""
    if device.type != "cuda":
        return ()
    return torch.cuda.set_device, (torch.cuda.current_device() if device.index is None else device.index,)
