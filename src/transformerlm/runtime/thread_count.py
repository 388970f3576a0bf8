"""Choice of the number of threads for a model on a CPU: what a step is fastest with on a quiet machine.

Threads that wait for each other cost time: a small model may be faster with fewer threads than there are
processors, and two threads on one core of two may be slower than one. Measured once, and kept like the
precision (precision.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch

from transformerlm.config import ModelConfig
from transformerlm.kernels.load import is_quiet, read_load
from transformerlm.kernels.measured import measured_once
from transformerlm.limits import available_cores
from transformerlm.runtime.device import DTYPES, DtypeName
from transformerlm.runtime.speed import MAX_WIDTH, Work, best_seconds, undisturbed
from transformerlm.schema import to_dict

MAX_LOSS = 1.03
"""Time relative to that of the best number, up to which fewer threads are taken."""
MAX_TOKENS = 4096
"""Most tokens of the layer that is measured: more are shared equally well."""

Measure = Callable[[ModelConfig, int, DtypeName, Sequence[int]], dict[int, float] | None]
"""Function from a model, tokens per pass, a precision and numbers of threads to the seconds of the same work
with each; None if the machine was not quiet."""


def thread_seconds(
    model: ModelConfig, num_tokens: int, dtype: DtypeName, numbers: Sequence[int]
) -> dict[int, float] | None:
    """Return the seconds of a layer's work, forward and backward, with each number of threads, in turns.

    None if the machine has other work meanwhile. PyTorch's number of threads is as before afterwards.
    """
    if not is_quiet():
        return None
    threads, before = torch.get_num_threads(), read_load()
    layer = _layer(model, min(num_tokens, MAX_TOKENS), DTYPES[dtype])

    def with_threads(number: int) -> Work:
        def run() -> None:
            torch.set_num_threads(number)
            layer()

        return run

    try:
        with undisturbed():
            seconds = best_seconds({number: with_threads(number) for number in numbers})
    finally:
        torch.set_num_threads(threads)
    return seconds if is_quiet(before) else None


def choose_num_threads(
    model: ModelConfig,
    num_tokens: int,
    dtype: DtypeName,
    measure: Measure = thread_seconds,
) -> int:
    """Return the number of threads with which a quiet machine trains this model fastest.

    A number in the environment, OMP_NUM_THREADS, is the user's choice, within the processors that there are.
    Where it cannot be measured since the machine has other work, all that the process may use: see
    thread_adapter.py.

    Args:
        num_tokens: tokens of a forward pass.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return min(torch.get_num_threads(), available_cores())
    numbers = candidates(available_cores(), torch.get_num_threads())
    if len(numbers) == 1:
        return numbers[0]
    names = [str(number) for number in numbers]
    sizes = {"model": to_dict(model), "tokens": min(num_tokens, MAX_TOKENS), "dtype": dtype}
    found = measured_once(
        {"work": ["threads", *names], **sizes},
        names,
        lambda: _named(measure(model, num_tokens, dtype, numbers)),
    )
    if found is None:
        return max(numbers)
    best = min(found.values())
    return next(number for number in numbers if found[str(number)] <= MAX_LOSS * best)


def _named(seconds: dict[int, float] | None) -> dict[str, float] | None:
    return {str(number): value for number, value in seconds.items()} if seconds else None


def candidates(num_cores: int, usual: int) -> list[int]:
    """Return the numbers of threads to choose from: powers of two, PyTorch's own number, all processors."""
    powers = {2**power for power in range(num_cores.bit_length())}
    return sorted(number for number in powers | {usual, num_cores} if number <= num_cores)


def _layer(model: ModelConfig, num_tokens: int, dtype: torch.dtype) -> Work:
    """Return a function with the products of a layer and some operations on its activations between them."""
    width, hidden = min(model.d_model, MAX_WIDTH), min(model.d_ff, MAX_WIDTH)

    def ones(*shape: int) -> torch.Tensor:
        return torch.ones(shape, dtype=dtype, device="cpu")

    x, up, down = ones(num_tokens, width), ones(width, hidden), ones(hidden, width)
    square = ones(width, width)

    def run() -> None:
        for _ in range(4):  # queries, keys, values and output; forward and backward take three products each
            y = x @ square
            y += x
            square @ (x.T @ y)
        z = x @ up
        z *= z
        for _ in range(3):
            (z @ down).add_(x)
            z.T @ x

    return run
