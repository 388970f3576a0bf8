"""Memory and communication of a training that is divided among ranks, on one machine and without memory.

    python -m benchmarking.bench_dry_run --config configs/bench_dry_run.toml

The model is made on the meta device and divided by FSDP2 in a process group that exchanges nothing. What each
rank holds is counted on the divided tensors; what it sends is counted on the collectives that FSDP2 makes of
them. Beside both are the formulas of docs/devices.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformerlm.cli.command import Command, run_command
from transformerlm.config import ModelConfig, OptimizerConfig, RuntimeConfig, TrainConfig, TrainingConfig
from transformerlm.schema import PositiveInt, Section


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRunSection(Section):
    """[dry_run]: sizes of the training."""

    num_ranks: PositiveInt = 8
    """Devices."""
    batch_size: PositiveInt = 8
    """Sequences of a step, over all ranks."""
    micro_batch_size: PositiveInt = 1
    """Sequences that a rank computes at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRunConfig(Section):
    """benchmarking.bench_dry_run."""

    dry_run: DryRunSection = field(default_factory=DryRunSection)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(vocab_size=32000))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


@dataclass(frozen=True)
class Counted:
    """Bytes of a rank."""

    parameters: int
    """Parameters of the whole model, their number."""
    weights: int
    """Its part of the weights; of gradients as much."""
    optimizer: int
    largest_unit: int
    """The parameters that are gathered together, of the largest block."""
    outside_blocks: int
    """Embedding, last norm and head, gathered from their first use in a step to their last."""
    sent: int
    """In a step."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    command = Command(DryRunConfig, dry_run, description="Count memory and communication of several ranks.")
    return run_command(command, argv)


def dry_run(config: DryRunConfig) -> int:
    """Count, and print beside the formulas."""
    print("\n".join(report(config, count(config))))
    return 0


def count(config: DryRunConfig) -> Counted:
    """Divide the model among the ranks, and count what rank 0 has and sends."""
    import torch
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from transformerlm.distributed.ranks import Ranks
    from transformerlm.distributed.sharding import Sharded
    from transformerlm.distributed.world import World
    from transformerlm.nn import NextTokenLoss, TransformerLM
    from transformerlm.optim import make_optimizer
    from transformerlm.runtime.device import DTYPES

    number = config.dry_run.num_ranks
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=number)
    try:
        loss = NextTokenLoss(TransformerLM(config.model, device="meta"))
        whole = sum(parameter.numel() for parameter in loss.parameters())
        blocks = list(loss.model.blocks)
        dtype = DTYPES.get(config.runtime.dtype, torch.float32)
        Sharded(Ranks(World(0, number)), dtype).shard_(loss, blocks, torch.device("cpu"))
        own = {id(p): p.to_local().numel() for p in loss.parameters()}  # type: ignore[attr-defined]
        in_blocks = [[own[id(p)] for p in block.parameters()] for block in blocks]
        outside = sum(own.values()) - sum(map(sum, in_blocks))
        optimizer = make_optimizer(loss.model, config.optimizer)
        moments = sum(
            own[id(p)] * (1 if group.get("algorithm") == "muon" else 2)
            for group in optimizer.param_groups
            for p in group["params"]
        )
        units = [(sum(sizes), is_kept) for sizes, is_kept in zip(in_blocks, kept(len(blocks)), strict=True)]
        return Counted(
            parameters=whole,
            weights=4 * sum(own.values()),
            optimizer=4 * moments,
            largest_unit=number * dtype.itemsize * max(map(sum, in_blocks)),
            outside_blocks=number * dtype.itemsize * outside,
            sent=sent_bytes(config, [*units, (outside, True)], dtype.itemsize),
        )
    finally:
        dist.destroy_process_group()


def kept(num_blocks: int) -> list[bool]:
    """Return for each block if it stays whole from its forward to its backward pass: the last one."""
    return [index == num_blocks - 1 for index in range(num_blocks)]


def sent_bytes(config: DryRunConfig, units: Sequence[tuple[int, bool]], itemsize: int) -> int:
    """Return what a rank sends in a step: its part of each unit, to all others, whenever it is gathered.

    A unit is gathered before its forward pass, and before its backward pass unless it is kept; after that its
    gradient is summed in float32.
    """
    run, others = config.dry_run, config.dry_run.num_ranks - 1
    passes = run.batch_size // run.num_ranks // run.micro_batch_size
    gathered = sum(size * (1 if is_kept else 2) for size, is_kept in units)
    return others * passes * (itemsize * gathered + 4 * sum(size for size, _ in units))


def report(config: DryRunConfig, counted: Counted) -> list[str]:
    """Return the lines that are printed."""
    import torch

    from transformerlm.distributed.ranks import Ranks
    from transformerlm.distributed.world import World
    from transformerlm.progress import readable
    from transformerlm.runtime import Runtime
    from transformerlm.runtime.device import DTYPES
    from transformerlm.training.memory import training_memory

    run, ranks = config.dry_run, Ranks(World(0, config.dry_run.num_ranks))
    sizes = {"batch_size": run.batch_size, "micro_batch_size": run.micro_batch_size}
    training = replace(TrainingConfig(), **sizes)  # type: ignore[arg-type]
    dtype = DTYPES.get(config.runtime.dtype, torch.float32)
    runtime = Runtime(torch.device("cpu"), dtype)
    train = TrainConfig(
        model=config.model, optimizer=config.optimizer, runtime=config.runtime, training=training
    )
    memory = training_memory(train, runtime, run.micro_batch_size, ranks)
    number, passes = run.num_ranks, run.batch_size // run.num_ranks // run.micro_batch_size
    parameters = counted.parameters
    sent = (2 * dtype.itemsize + 4) * passes * parameters * (number - 1) // number
    rows: list[tuple[str, Any, Any]] = [
        ("weights, each rank", counted.weights, 4 * parameters // number),
        ("gradients", counted.weights, 4 * parameters // number),
        ("optimizer", counted.optimizer, 8 * parameters // number),
        ("gathered: two blocks", 2 * counted.largest_unit, ""),
        ("gathered: outside the blocks", counted.outside_blocks, ""),
        ("activations and logits", "", memory.activations + memory.logits),
        ("sent in a step, each rank", counted.sent, sent),
    ]
    lines = [f"{parameters:,} parameters on {number} ranks, {passes} micro-batches a step, {dtype}"]
    lines.append(f"{'':<32}{'counted':>12}{'formula':>12}")
    for name, *values in rows:
        cells = [readable(value) if value != "" else "" for value in values]
        lines.append(f"{name:<32}{cells[0]:>12}{cells[1]:>12}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
