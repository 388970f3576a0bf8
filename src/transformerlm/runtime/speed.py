"""Time of the same work in several precisions, measured so that a busy moment does not decide.

The work is done in turns, and the best time of each precision counts. A precision whose instructions the
processor lacks is emulated, some hundred times slower: it is found with a tiny product, and then left alone.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch

from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.runtime.device import DTYPES, DtypeName

MIN_ROUNDS, MAX_ROUNDS = 3, 9
"""Number of times that each precision has its turn: the more, the less of MAX_SECONDS they take."""
MAX_SECONDS = 0.3
"""Duration of a measurement after which no further round begins."""
NUM_FLOPS = 2e9
"""Floating-point operations of the products that are measured in one turn, if so few are enough."""
MIN_TOKENS, MAX_TOKENS = 128, 4096
"""Fewest and most rows of a product: fewer are bound by memory and not by arithmetic."""
MAX_WIDTH = 2048
"""Widest matrix that is measured: wider ones run at the same rate and only take memory and time."""
EMULATED = 4.0
"""Time relative to float32's from which a precision counts as emulated; no instructions are so slow."""

Work = Callable[[], object]
Key = TypeVar("Key", bound=Hashable)


def best_seconds(work: Mapping[Key, Work]) -> dict[Key, float]:
    """Return the shortest time of each entry of `work`; they are run in turns."""
    for run in work.values():
        run()  # loads libraries, generates code
    best, start = dict.fromkeys(work, math.inf), time.perf_counter()
    for turn in range(MAX_ROUNDS):
        if turn >= MIN_ROUNDS and time.perf_counter() - start > MAX_SECONDS:
            break
        for name, run in work.items():
            before = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - before)
    return best


def has_emulation(seconds: Mapping[DtypeName, float]) -> bool:
    """Return True if a precision takes so much longer than float32 that it must be emulated."""
    return max(seconds.values()) > EMULATED * seconds["float32"]


def probe(names: Sequence[DtypeName]) -> dict[DtypeName, float]:
    """Return the seconds of a small product in each precision, which takes much longer where it is emulated.

    It is small enough for one thread: several would wait for each other where the machine has other work.
    """
    return _seconds_of([(1, 256, 256)], 8, names)


def product_seconds(
    model: ModelConfig, config: RuntimeConfig, names: Sequence[DtypeName]
) -> dict[DtypeName, float]:
    """Return the seconds of the CPU's matrix products in a forward and backward pass, in each precision.

    Args:
        config: not needed; the products are PyTorch's with any settings.
        names: of the precisions, float32 among them.
    """
    matrices = matrices_of(model)
    flops_per_token = sum(6 * inputs * outputs for _, inputs, outputs in matrices)
    tokens = min(max(round(NUM_FLOPS / flops_per_token), MIN_TOKENS), MAX_TOKENS)
    with undisturbed():
        found = probe(names)
        # A sixteenth first: what the probe has not shown takes seconds at most.
        for part in (tokens // 16, tokens):
            if not has_emulation(found):
                found = _seconds_of(matrices, part, names)
    return found


def matrices_of(model: ModelConfig) -> list[tuple[int, int, int]]:
    """Return the matrices that a token is multiplied with, joined as in training: (number, inputs, outputs).

    Those that are wider than MAX_WIDTH are returned as if they had that width.
    """
    queries = model.num_heads * model.head_dim
    keys_and_values = 2 * model.kv_heads * model.head_dim
    layers = [
        (model.d_model, queries + keys_and_values),
        (queries, model.d_model),
        (model.d_model, 2 * model.d_ff),
        (model.d_ff, model.d_model),
    ]
    shapes = [*((model.num_layers, *shape) for shape in layers), (1, model.d_model, model.vocabulary_rows)]
    return [(number, min(inputs, MAX_WIDTH), min(outputs, MAX_WIDTH)) for number, inputs, outputs in shapes]


def _seconds_of(
    matrices: Sequence[tuple[int, int, int]], tokens: int, names: Sequence[DtypeName]
) -> dict[DtypeName, float]:
    """Return the seconds of all products of `tokens` rows with these matrices; of equal ones one is timed."""
    work = {
        (name, inputs, outputs): layer_products(tokens, inputs, outputs, DTYPES[name])
        for _, inputs, outputs in matrices
        for name in names
    }
    seconds = best_seconds(work)
    return {
        name: sum(number * seconds[name, inputs, outputs] for number, inputs, outputs in matrices)
        for name in names
    }


def layer_products(tokens: int, inputs: int, outputs: int, dtype: torch.dtype) -> Work:
    """Return a function that computes a linear layer's product, and its two gradients."""
    shapes = ((tokens, inputs), (outputs, inputs), (tokens, outputs))
    x, weight, gradient = (torch.ones(shape, dtype=dtype, device="cpu") for shape in shapes)
    return lambda: (x @ weight.T, gradient @ weight, gradient.T @ x)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Context manager in which PyTorch computes on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Context manager in which the host's autocast and recording of gradients are off for this thread."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        yield
