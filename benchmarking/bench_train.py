"""Training speed beside the peers: steps, optimizers, memory, and time to a loss.

    python -m benchmarking.bench_train --config configs/bench_train.toml
    python -m benchmarking.bench_train --config configs/bench_train.toml --bench.nanogpt_dir=path/to/nanoGPT

Every contestant has a process of its own and they take turns, a step each. Results are JSON lines on
stdout, what cannot be compared is said on stderr; no file is left behind.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from benchmarking import machine_jobs
from benchmarking.corpora import outside_path
from benchmarking.timing import NO_BFLOAT16, Contestants, Outcome, Task, has_bfloat16, nothing
from benchmarking.train_jobs import (
    hugging_face_step,
    nanogpt_step,
    our_adamw,
    our_step,
    torch_adamw,
)
from benchmarking.train_race import time_to_loss
from transformerlm.cli.command import Command, run_command
from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.schema import NonNegativeInt, PositiveFloat, PositiveInt, Section, Text


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSection(Section):
    """[bench]: what to run, and how often."""

    work: tuple[Literal["small", "medium", "large", "adamw", "time_to_loss", "machine"], ...] = (
        "small",
        "medium",
    )
    """"small", "medium" and "large": steps of a model of that shape; "adamw": of the optimizer alone on the
    medium one; "time_to_loss": whole trainings on tiny Shakespeare; "machine": steps of our main job, with
    and without what is measured of the machine, quiet and beside other work."""
    batch_size: PositiveInt = 32
    """Sequences per step."""
    warmup_rounds: NonNegativeInt = 1
    """Steps of each contestant that are not counted."""
    rounds: PositiveInt = 5
    """Measured steps of each contestant."""
    time_limit_seconds: PositiveFloat = 300.0
    """Time limit of the preparation and of a step."""
    races: PositiveInt = 3
    """Trainings of each contestant in "time_to_loss"."""
    busy_processes: tuple[NonNegativeInt, ...] = (0, 1, 2)
    """Numbers of busy processes beside which "machine" is measured."""
    calls: PositiveInt = 9
    """Pieces of a round in "machine"; the median counts, so that adapting to the round's load does not."""
    steps_per_call: PositiveInt = 4
    """Steps of such a piece."""
    machine_batch_size: PositiveInt = 8
    """Sequences per step in "machine"."""
    nanogpt_dir: Text | None = None
    """A checkout of nanoGPT. None: without it."""
    text_path: Text = "{test_data}/tinyshakespeare.txt"
    """Tiny Shakespeare, for "time_to_loss". {test_data}: the folder that TRANSFORMERLM_TEST_DATA names."""
    train_config: Text = "configs/train_shakespeare.toml"
    """Our config for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchTrainConfig(Section):
    """benchmarking.bench_train."""

    bench: BenchSection = field(default_factory=BenchSection)
    small: ModelConfig = field(default_factory=lambda: ModelConfig(vocab_size=65))
    medium: ModelConfig = field(default_factory=lambda: ModelConfig(vocab_size=10000))
    large: ModelConfig = field(default_factory=lambda: ModelConfig(vocab_size=50304))
    machine: ModelConfig = field(default_factory=lambda: ModelConfig(vocab_size=4096))
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    command = Command(BenchTrainConfig, bench, description="Measure how fast training is, beside others.")
    return run_command(command, argv)


def bench(config: BenchTrainConfig) -> int:
    """Run the chosen works."""
    for work in config.bench.work:
        if work == "time_to_loss":
            section = config.bench
            text, checkout = Path(outside_path(section.text_path)), section.nanogpt_dir
            time_to_loss(text, section.train_config, checkout, section.races)
        elif work == "machine":
            for number in config.bench.busy_processes:
                with machine_jobs.busy_processes(number):
                    measure_machine(config, number)
        elif work == "adamw":
            run(config, work, config.medium, adamw_contestants(config))
        else:
            shape: ModelConfig = getattr(config, work)
            run(config, work, shape, contestants(config, shape))
    return 0


CALLS = 20
"""Optimizer steps per round: one takes some milliseconds."""

Make = Callable[[], Callable[[], object]]


def contestants(config: BenchTrainConfig, shape: ModelConfig) -> dict[str, Make]:
    """Return ours by default and with each speed-up off, and the peers, in each supported precision."""
    bench, runtime = config.bench, config.runtime
    plain = replace(runtime, dtype="float32")
    narrow = replace(runtime, dtype="bfloat16")
    ours = functools.partial(our_step, shape)
    found: dict[str, Make] = {
        "transformerlm": functools.partial(ours, runtime, bench.batch_size),
        "transformerlm float32": functools.partial(ours, plain, bench.batch_size),
        "transformerlm without kernels": functools.partial(
            ours, replace(runtime, kernels=False), bench.batch_size
        ),
    }
    precisions = {"bfloat16": narrow, "float32": plain}
    if not has_bfloat16(runtime.device):
        print(NO_BFLOAT16, file=sys.stderr)
        del precisions["bfloat16"]
    for precision, chosen in precisions.items():
        arguments = shape, chosen, bench.batch_size
        found[f"transformers {precision}"] = functools.partial(hugging_face_step, *arguments)
        if bench.nanogpt_dir:
            found[f"nanoGPT {precision}"] = functools.partial(nanogpt_step, *arguments, bench.nanogpt_dir)
    return found


def adamw_contestants(config: BenchTrainConfig) -> dict[str, Make]:
    """Return two optimizers on the same parameters."""
    return {
        "transformerlm": functools.partial(our_adamw, config.medium),
        "torch fused": functools.partial(torch_adamw, config.medium),
    }


def run(config: BenchTrainConfig, work: str, shape: ModelConfig, makers: dict[str, Make]) -> None:
    """Race the contestants and print a line for each."""
    bench = config.bench
    calls = CALLS if work == "adamw" else 1
    tasks = {
        name: Task(make, nothing, bench.time_limit_seconds, calls=calls) for name, make in makers.items()
    }
    with Contestants(functools.partial(print, file=sys.stderr)) as processes:
        outcomes = processes.race(work, tasks, warmup_rounds=bench.warmup_rounds, rounds=bench.rounds)
    ceiling = flops_ceiling(config.runtime) if work != "adamw" else None
    for name, outcome in outcomes.items():
        report(config, work, shape, name, outcomes, outcome, ceiling)


def measure_machine(config: BenchTrainConfig, num_busy: int) -> None:
    """Race ours with and without what is measured, beside busy processes; print a line for each."""
    from transformerlm.logging import ConsoleLogger

    bench, work = config.bench, f"machine, {num_busy} busy"
    sizes = bench.machine_batch_size, bench.steps_per_call
    tasks = {
        name: Task(make, nothing, bench.time_limit_seconds, calls=bench.calls)
        for name, make in machine_jobs.contestants(config.machine, config.runtime, *sizes).items()
    }
    with Contestants(functools.partial(print, file=sys.stderr)) as processes:
        outcomes = processes.race(work, tasks, warmup_rounds=bench.warmup_rounds, rounds=bench.rounds)
    for name, outcome in outcomes.items():
        ratios = {
            f"bench.speed_by_{other.replace(' ', '_')}": outcomes[other].times_slower_than(outcome)
            for other in ("one thread", "not measured")
            if other in outcomes
        }
        values: dict[str, float | str] = {
            "bench.work": "machine",
            "bench.contestant": name,
            "bench.busy_processes": num_busy,
            "bench.seconds_per_step": outcome.median / bench.steps_per_call,
            "bench.fastest_seconds": min(outcome.seconds) / bench.steps_per_call,
            "bench.slowest_seconds": max(outcome.seconds) / bench.steps_per_call,
        }
        ConsoleLogger().log(values | ratios)


@dataclass(frozen=True)
class Ceiling:
    """Measured speed of this machine's large matrix products."""

    dtype: str
    flops_per_second: float


def flops_ceiling(runtime: RuntimeConfig) -> Ceiling:
    """Measure the ceiling in bfloat16, or in float32 where the processor has no bfloat16."""
    from transformerlm.runtime import measured_flops_ceiling, prepare_process

    dtype: Literal["bfloat16", "float32"] = "bfloat16" if has_bfloat16(runtime.device) else "float32"
    resolved = prepare_process(replace(runtime, dtype=dtype))
    return Ceiling(dtype, measured_flops_ceiling(resolved, seconds=2))


def report(
    config: BenchTrainConfig,
    work: str,
    shape: ModelConfig,
    name: str,
    outcomes: dict[str, Outcome],
    outcome: Outcome,
    ceiling: Ceiling | None,
) -> None:
    """Print the record of one contestant."""
    from transformerlm.logging import ConsoleLogger
    from transformerlm.nn import num_parameters, training_flops_per_token

    values: dict[str, float | str] = {
        "bench.work": work,
        "bench.contestant": name,
        "bench.seconds_per_step": outcome.median,
        "bench.fastest_seconds": min(outcome.seconds),
        "bench.slowest_seconds": max(outcome.seconds),
        "bench.ours_is_faster_by": outcome.times_slower_than(outcomes["transformerlm"]),
        "bench.peak_bytes": outcome.rounds[-1].memory.peak,
    }
    if ceiling:
        tokens_per_second = config.bench.batch_size * shape.context_length / outcome.median
        flops = tokens_per_second * training_flops_per_token(shape, shape.context_length)
        values |= {
            "bench.num_parameters_of_ours": num_parameters(shape),
            "metrics.tokens_per_second": tokens_per_second,
            f"bench.share_of_{ceiling.dtype}_ceiling": flops / ceiling.flops_per_second,
        }
    ConsoleLogger().log(values)


if __name__ == "__main__":
    sys.exit(main())
