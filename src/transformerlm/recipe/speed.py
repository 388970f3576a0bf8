"""Speed of training on the device at hand, from a few steps of small models of several widths."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from transformerlm.config import ModelConfig, OptimizerConfig, RuntimeConfig
from transformerlm.nn import NextTokenLoss, TransformerLM, training_flops_per_token
from transformerlm.nn.fused import use_kernels_
from transformerlm.optim import make_optimizer
from transformerlm.runtime import Runtime

WIDTHS = (64, 128, 256, 512, 1024)
"""Widths that are measured, until a step takes MAX_STEP_SECONDS: wider ones are as efficient as the last."""
NUM_LAYERS, CONTEXT_LENGTH, VOCAB_SIZE = 2, 128, 1024
"""Other sizes of the models that are measured."""
TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 16384}
"""Tokens of a measured step, by type of device."""
MEASURED_STEPS = 3
MAX_STEP_SECONDS = 0.1
OPTIMIZER = OptimizerConfig(name="muon", muon_steps=3)


@dataclass(frozen=True)
class TrainingSpeed:
    """Floating-point operations per second of whole training steps, by the width of the model."""

    flops: Mapping[int, float]

    def tokens_per_second(self, model: ModelConfig) -> float:
        """Return the tokens that a model of these sizes trains on per second, between measured widths
        interpolated over the logarithms."""
        rate = _interpolated(self.flops, model.d_model)
        return rate / training_flops_per_token(model, model.context_length)


def measure_speed(runtime: Runtime, config: RuntimeConfig) -> TrainingSpeed:
    """Time steps of random models on random tokens, for a second or two; global random state is restored."""
    found: dict[int, float] = {}
    with torch.random.fork_rng():
        for width in WIDTHS:
            model = ModelConfig(
                vocab_size=VOCAB_SIZE,
                context_length=CONTEXT_LENGTH,
                d_model=width,
                num_layers=NUM_LAYERS,
                num_heads=width // 32,
                d_ff=3 * width,
                tie_embeddings=True,
                qk_norm=True,
            )
            tokens = TOKENS[runtime.device.type]
            seconds = _step_seconds(model, runtime, config.attention, tokens)
            found[width] = tokens * training_flops_per_token(model, CONTEXT_LENGTH) / seconds
            if seconds > MAX_STEP_SECONDS:
                break
    return TrainingSpeed(found)


def _step_seconds(shape: ModelConfig, runtime: Runtime, backend: str, tokens: int) -> float:
    """Return the shortest time of a step, without the first."""
    model = TransformerLM(shape, backend=backend, device=runtime.device)
    loss = NextTokenLoss(model)
    if runtime.kernels:
        use_kernels_(loss)
    optimizer = make_optimizer(model, OPTIMIZER, runtime.dtype, kernels=runtime.kernels)
    sizes = 2, tokens // CONTEXT_LENGTH, CONTEXT_LENGTH
    inputs, targets = torch.randint(VOCAB_SIZE, sizes, dtype=torch.int64, device=runtime.device)
    best = math.inf
    for _ in range(1 + MEASURED_STEPS):
        runtime.synchronize()
        start = time.perf_counter()
        with runtime.autocast():
            value = loss(inputs, targets, tokens)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        runtime.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def _interpolated(values: Mapping[int, float], at: float) -> float:
    """Return the value at a position, linear between neighbours over logarithms, constant outside."""
    known = sorted(values)
    if at <= known[0] or at >= known[-1]:
        return values[known[0] if at <= known[0] else known[-1]]
    right = next(index for index, position in enumerate(known) if position > at)
    low, high = known[right - 1], known[right]
    part = math.log(at / low) / math.log(high / low)
    return float(math.exp((1 - part) * math.log(values[low]) + part * math.log(values[high])))
