"""Speed of parts of a step in several implementations, for the choice of one (runtime/implementation.py)."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from transformerlm.config import ModelConfig
from transformerlm.nn import TransformerBlock
from transformerlm.nn.fused import MAX_QUERIES
from transformerlm.nn.fused_functions import attention
from transformerlm.nn.sdpa import scaled_dot_product_attention
from transformerlm.progress import SilentReporter
from transformerlm.runtime import Runtime, compiled
from transformerlm.runtime.implementation import Attention, Compilation
from transformerlm.runtime.speed import best_seconds, one_thread

NUM_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens of the batch that is measured, by device."""
CALLS = 20
"""Passes on a GPU that are timed together."""


def attention_seconds(model: ModelConfig, runtime: Runtime) -> dict[Attention, float]:
    """Return the seconds of causal attention, forward and backward, by this package and by PyTorch.

    On one thread: the ratio is about the same on several, which other work would make wait for each other.
    """
    if model.context_length > MAX_QUERIES:  # where the kernels' attention is not used
        return {"kernels": 1.0, "torch": 1.0}
    times, width = model.context_length, model.head_dim
    batch = max(1, NUM_TOKENS["cpu"] // times)
    heads = model.num_heads, model.kv_heads, model.kv_heads
    q, k, v = (_constant((batch, number, times, width), runtime).requires_grad_() for number in heads)
    gradient = _constant((batch, model.num_heads, times, width), runtime)

    def passes(attend: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(attend(), (q, k, v), gradient)

    with one_thread():
        return best_seconds(
            {
                "kernels": passes(lambda: attention(q, k, v)),
                "torch": passes(lambda: scaled_dot_product_attention(q, k, v, causal=True, backend="torch")),
            }
        )


def block_seconds(model: ModelConfig, runtime: Runtime) -> dict[Compilation, float]:
    """Return the seconds of a block, forward and backward, without and with torch.compile, and those of
    compiling it."""
    block = TransformerBlock(model, device="meta").to_empty(device=runtime.device)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.fill_(0.01)  # zeros and memory as it was may take another time
    batch = max(1, NUM_TOKENS["cuda"] // model.context_length)
    x = torch.full(
        (batch, model.context_length, model.d_model), 0.01, dtype=torch.float32, device=runtime.device
    )
    start = time.perf_counter()
    other = compiled(block, (x,), runtime, SilentReporter())
    compiling = time.perf_counter() - start

    def passes(module: torch.nn.Module) -> Callable[[], object]:
        def run() -> None:
            for _ in range(CALLS):
                with runtime.autocast():
                    y = module(x)
                torch.autograd.backward(y.sum())
            runtime.synchronize()

        return run

    seconds = best_seconds({"eager": passes(block), "compiled": passes(other)})
    return {"eager": seconds["eager"], "compiled": seconds["compiled"], "compiling": compiling}


def _constant(shape: tuple[int, ...], runtime: Runtime) -> Tensor:
    return torch.full(shape, 0.01, dtype=runtime.dtype, device=runtime.device)
