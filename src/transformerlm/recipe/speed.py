"""Speed of training on the device at hand, from a few steps of small models of several widths.

On a quiet machine what is found is kept. The model that is chosen by it is measured itself, each time, and
corrects the others: `TrainingSpeed.corrected`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

from transformerlm.config import ModelConfig, OptimizerConfig, RuntimeConfig
from transformerlm.kernels.load import is_quiet, read_load
from transformerlm.kernels.measured import measured_once
from transformerlm.nn import NextTokenLoss, TransformerLM, training_flops_per_token
from transformerlm.nn.fused import use_kernels_
from transformerlm.optim import make_optimizer
from transformerlm.runtime import Runtime
from transformerlm.runtime.device import dtype_name

WIDTHS = (64, 128, 256, 512, 1024)
"""Widths that are measured, until a step takes MAX_STEP_SECONDS: wider ones count as fast as the last."""
NUM_LAYERS, CONTEXT_LENGTH, VOCAB_SIZE = 2, 128, 1024
"""Other sizes of the models that are measured."""
TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 16384}
"""Tokens of a measured step, by type of device."""
MEASURED_STEPS = 3
TYPICAL_SECONDS = 0.3
"""Time of steps whose median is a typical one: a core that others use is taken away for tens of ms."""
MAX_STEP_SECONDS = 0.1
OPTIMIZER = OptimizerConfig(name="muon", muon_steps=3)


@dataclass(frozen=True)
class TrainingSpeed:
    """Floating-point operations per second of whole training steps, by the width of the model."""

    flops: Mapping[int, float]
    factor: float = 1.0
    """Speed of a whole model that was measured, relative to what `flops` says of it."""

    def tokens_per_second(self, model: ModelConfig) -> float:
        """Return the tokens that a model of these sizes trains on per second, between measured widths
        interpolated over the logarithms."""
        rate = _interpolated(self.flops, model.d_model)
        return self.factor * rate / training_flops_per_token(model, model.context_length)

    def corrected(self, model: ModelConfig, tokens_per_second: float) -> TrainingSpeed:
        """Return the speed by which this model trains on so many tokens per second, others in proportion."""
        return dataclasses.replace(
            self, factor=self.factor * tokens_per_second / self.tokens_per_second(model)
        )


def measure_speed(runtime: Runtime, config: RuntimeConfig) -> TrainingSpeed:
    """Return the speed on this machine: what is kept, or measured now, in a second or two."""
    names = [str(width) for width in WIDTHS]
    gpu = torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else ""
    conditions = {
        "work": [__name__, *names],
        "runtime": [runtime.device.type, gpu, dtype_name(runtime.dtype), runtime.kernels, config.attention],
        "threads": torch.get_num_threads(),
    }

    def measured_if_quiet() -> dict[str, float] | None:
        if not is_quiet():
            return None
        before = read_load()
        found = _measured(runtime, config.attention)
        return {str(width): rate for width, rate in found.items()} if is_quiet(before) else None

    kept = measured_once(conditions, names, measured_if_quiet)
    return TrainingSpeed(
        {int(width): rate for width, rate in kept.items()} if kept else _measured(runtime, config.attention)
    )


def _measured(runtime: Runtime, backend: str) -> dict[int, float]:
    """Return floating-point operations per second, by width: of random models on random tokens."""
    found: dict[int, float] = {}
    tokens, seconds = TOKENS[runtime.device.type], 0.0
    for width in WIDTHS:
        if seconds > MAX_STEP_SECONDS:
            found[width] = found[max(found)]
            continue
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
        seconds = step_seconds(model, OPTIMIZER, runtime, backend, tokens)
        found[width] = tokens * training_flops_per_token(model, CONTEXT_LENGTH) / seconds
    return found


def step_seconds(
    shape: ModelConfig,
    optimizer: OptimizerConfig,
    runtime: Runtime,
    backend: str,
    tokens: int,
    prepare: Callable[[TransformerLM], None] | None = None,
    *,
    is_typical: bool = False,
) -> float:
    """Return the time of a training step of a random model, without the first step.

    The shortest one says what the machine can do; a typical one, the median over some time, what a run gets
    beside other work.

    Global random state is restored.

    Args:
        backend: implementation of attention, as for `TransformerLM`.
        tokens: tokens of a step, about; at least one whole sequence is taken.
        prepare: changes the model before it is trained.
    """
    with torch.random.fork_rng():
        model = TransformerLM(shape, backend=backend, device=runtime.device)
        if prepare:
            prepare(model)
        loss = NextTokenLoss(model)
        if runtime.kernels:
            use_kernels_(loss)
        optimizer_ = make_optimizer(model, optimizer, runtime.dtype, kernels=runtime.kernels)
        sizes = 2, max(1, tokens // shape.context_length), shape.context_length
        inputs, targets = torch.randint(
            shape.vocabulary_rows, sizes, dtype=torch.int64, device=runtime.device
        )
        times: list[float] = []
        while len(times) <= MEASURED_STEPS or (is_typical and sum(times) < TYPICAL_SECONDS):
            runtime.synchronize()
            start = time.perf_counter()
            with runtime.autocast():
                value = loss(inputs, targets, targets.numel())
            value.backward()
            optimizer_.step()
            optimizer_.zero_grad(set_to_none=True)
            runtime.synchronize()
            times.append(time.perf_counter() - start)
        return median(times[1:]) if is_typical else min(times[1:])


def _interpolated(values: Mapping[int, float], at: float) -> float:
    """Return the value at a position, linear between neighbours over logarithms, constant outside."""
    known = sorted(values)
    if at <= known[0] or at >= known[-1]:
        return values[known[0] if at <= known[0] else known[-1]]
    right = next(index for index, position in enumerate(known) if position > at)
    low, high = known[right - 1], known[right]
    part = math.log(at / low) / math.log(high / low)
    return float(math.exp((1 - part) * math.log(values[low]) + part * math.log(values[high])))
