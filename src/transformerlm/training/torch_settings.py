"""PyTorch's settings of this process, set for a run and restored: for training inside another program."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from transformerlm.config import RuntimeConfig

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextlib.contextmanager
def temporary_torch_settings(config: RuntimeConfig) -> Iterator[None]:
    """Context manager that sets threads, seed and determinism according to [runtime], and restores them."""
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        if config.num_threads != "auto":
            torch.set_num_threads(config.num_threads)
        if config.deterministic:
            stack.enter_context(_deterministic())
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
        stack.enter_context(torch.random.fork_rng(devices))
        torch.manual_seed(config.seed)
        yield


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    cublas = os.environ.get(_CUBLAS)
    # Read by cuBLAS when it starts; without it torch refuses its products.
    os.environ.setdefault(_CUBLAS, ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        if cublas is None:
            del os.environ[_CUBLAS]
