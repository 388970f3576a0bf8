"""Training throughput: ours beside Hugging Face's Llama of the same shape, on random tokens.

    python -m benchmarking.bench_train --config configs/bench_train.toml

Both take whole training steps (forward, backward, clipping, AdamW) in the same process, in turn, and
the medians are compared. Results are JSON lines on stdout; no file is written.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from benchmarking.peers import hugging_face_llama
from transformerlm.cli.common import run_command
from transformerlm.config import ModelConfig, OptimizerConfig, RuntimeConfig
from transformerlm.schema import NonNegativeInt, PositiveInt, Section

if TYPE_CHECKING:
    from torch import Tensor

    from transformerlm.runtime import Runtime


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSection(Section):
    """[bench]: how much to run."""

    batch_size: PositiveInt = 32
    """Sequences per step."""
    warmup_steps: NonNegativeInt = 1
    """Steps of each model that are not counted."""
    steps: PositiveInt = 5
    """Steps of each model that are; the models take turns."""
    peers: tuple[Literal["transformers"], ...] = ("transformers",)
    """What to compare with; one that is not installed is said and left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchTrainConfig(Section):
    """benchmarking.bench_train."""

    bench: BenchSection = field(default_factory=BenchSection)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(vocab_size=10000))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


Step = Callable[["Tensor", "Tensor"], object]


def main() -> int:
    """The command."""
    return run_command(BenchTrainConfig, bench, description="Measure tokens per second of training.")


def bench(config: BenchTrainConfig) -> int:
    """Run all contestants in turn and print their medians."""
    import torch

    from transformerlm.logging import ConsoleLogger
    from transformerlm.nn import num_parameters, training_flops_per_token
    from transformerlm.runtime import Runtime, measured_flops_ceiling

    runtime = Runtime.from_config(config.runtime)
    ceiling = measured_flops_ceiling(runtime)
    contestants: dict[str, Step] = {"transformerlm": our_step(config, runtime)}
    if "transformers" in config.bench.peers and (peer := hugging_face_step(config, runtime)):
        contestants["transformers"] = peer
    shape = (config.bench.batch_size, config.model.context_length)
    batches = [torch.randint(config.model.vocabulary_rows, shape, device=runtime.device) for _ in range(2)]
    seconds = alternate(contestants, (batches[0], batches[1]), config.bench, runtime)
    flops_per_token = training_flops_per_token(config.model, config.model.context_length)
    for name, times in seconds.items():
        tokens_per_second = shape[0] * shape[1] / statistics.median(times)
        values: dict[str, float | str] = {
            "bench.contestant": name,
            "bench.device": str(runtime),
            "bench.num_parameters": num_parameters(config.model),
            "metrics.tokens_per_second": tokens_per_second,
            "metrics.mfu": tokens_per_second * flops_per_token / ceiling,
            "bench.seconds_per_step": statistics.median(times),
            "bench.fastest_seconds": min(times),
            "bench.slowest_seconds": max(times),
            "bench.times_slower_than_ours": statistics.median(times)
            / statistics.median(seconds["transformerlm"]),
        }
        ConsoleLogger().log(values)
    return 0


def alternate(
    contestants: dict[str, Step], batch: tuple[Tensor, Tensor], bench: BenchSection, runtime: Runtime
) -> dict[str, list[float]]:
    """Seconds of every counted step of every contestant, run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(bench.warmup_steps + bench.steps):
        for name, step in contestants.items():
            gc.collect()
            runtime.synchronize()
            start = time.perf_counter()
            step(*batch)
            runtime.synchronize()
            if number >= bench.warmup_steps:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def our_step(config: BenchTrainConfig, runtime: Runtime) -> Step:
    """A training step of this package's model and optimizer."""
    import torch

    from transformerlm.nn import TransformerLM, cross_entropy
    from transformerlm.optim import AdamW, clip_grad_norm_, parameter_groups

    model: torch.nn.Module = TransformerLM(
        config.model, backend=config.runtime.attention, device=runtime.device
    )
    settings = config.optimizer
    groups = parameter_groups(model, settings.weight_decay)
    optimizer = AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps)
    forward = torch.compile(model) if config.runtime.compile else model

    def step(inputs: Tensor, targets: Tensor) -> None:
        with runtime.autocast():
            loss = cross_entropy(forward(inputs), targets)
        torch.autograd.backward(loss)
        clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def hugging_face_step(config: BenchTrainConfig, runtime: Runtime) -> Step | None:
    """A training step of transformers' LlamaForCausalLM of the same shape with torch's AdamW."""
    import torch

    model, settings = hugging_face_llama(config.model), config.optimizer
    if model is None:
        return None
    model.to(runtime.device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
    )
    forward = torch.compile(model) if config.runtime.compile else model

    def step(inputs: Tensor, targets: Tensor) -> None:
        with runtime.autocast():
            logits = forward(input_ids=inputs, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    sys.exit(main())
