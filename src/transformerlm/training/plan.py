"""Estimate of a run before it is started: memory, disk, speed and time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformerlm.config import TrainConfig
from transformerlm.data import TokenData, files_of, make_sampler
from transformerlm.distributed.ranks import SINGLE_PROCESS, Ranks
from transformerlm.ngrams.index import BYTES_PER_TOKEN
from transformerlm.nn import num_non_embedding_parameters, num_parameters, training_flops_per_token
from transformerlm.nn.accounting import checkpoint_bytes
from transformerlm.optim import lr_factor
from transformerlm.progress import Reporter, readable
from transformerlm.runtime import Machine, Runtime, measured_flops_ceiling, this_machine
from transformerlm.tokenizer import Tokenizer
from transformerlm.training.budget import make_budget
from transformerlm.training.learner import Learner
from transformerlm.training.memory import TrainingMemory, device_memory, training_memory
from transformerlm.training.ngrams import why_none
from transformerlm.training.pauses import tokens_per_step
from transformerlm.training.samples import sampling_seconds
from transformerlm.training.timers import FIRST_STEPS, STARTING, Clock, duration

MEASURED_SECONDS = 3.0
"""Duration of the measurement of steps; at least one step after the first few is measured."""


@dataclass(frozen=True)
class Plan:
    """A run in numbers: bytes, seconds, tokens."""

    config: TrainConfig
    runtime: Runtime
    machine: Machine | None
    """Measurements of a CPU."""
    num_ranks: int
    micro_batch_size: int
    memory: TrainingMemory
    """Of each rank."""
    device_memory: int | None
    """Of each rank."""
    checkpoint_bytes: int
    token_bytes: int
    free_bytes: int
    train_tokens: int
    pass_tokens: float
    """Tokens of a pass, fewer than all of a mixture that draws more of a small corpus."""
    measured_steps: int
    seconds_per_step: float
    flops_ceiling: float
    """Of all ranks."""
    steps: float
    """Of the whole run."""
    seconds: float
    """Of the whole run, validating, sampling and saving included."""

    def __str__(self) -> str:
        return "\n".join(plan_lines(self))


def make_plan(
    config: TrainConfig,
    data: TokenData,
    run_path: Path,
    runtime: Runtime,
    reporter: Reporter,
    now: Callable[[], float] = time.perf_counter,
    ranks: Ranks = SINGLE_PROCESS,
    started: float | None = None,
    tokenizer: Tokenizer | None = None,
) -> Plan:
    """Measure a few steps on the data, discard the model, and estimate the whole run.

    Args:
        started: moment by `now` from which the run's time would count; None: this call.
        tokenizer: the run's, with which samples are tried; None: their time is left out.
    """
    clock = Clock(now)
    clock.start(started)
    learner = Learner(config, runtime, reporter, ranks)
    learner.prepare()
    clock.spend(STARTING)
    steps, seconds_per_step = measured_pace(learner, data, now)
    budget = make_budget(config, clock, data.pass_tokens, data.val.num_tokens if data.val else 0)
    if config.training.sample_every and tokenizer:
        budget.pauses.sampling_seconds = sampling_seconds(learner, tokenizer)
    size = learner.micro_batches.size
    files = [file for split in (data.train, data.val) if split for file in files_of(split).values()]
    whole_run = budget.whole_run(seconds_per_step)
    return Plan(
        config=config,
        runtime=runtime,
        machine=this_machine() if runtime.device.type == "cpu" else None,
        num_ranks=ranks.size,
        micro_batch_size=size,
        memory=training_memory(config, runtime, size, ranks),
        device_memory=device_memory(runtime.device, ranks),
        checkpoint_bytes=checkpoint_bytes(config.model, config.optimizer.name),
        token_bytes=sum(file.path.stat().st_size for file in files),
        free_bytes=shutil.disk_usage(_existing(run_path)).free,
        train_tokens=data.train.num_tokens,
        pass_tokens=data.pass_tokens,
        measured_steps=steps,
        seconds_per_step=seconds_per_step,
        flops_ceiling=ranks.size * measured_flops_ceiling(runtime),
        steps=whole_run[0],
        seconds=whole_run[1],
    )


def measured_pace(learner: Learner, data: TokenData, now: Callable[[], float]) -> tuple[int, float]:
    """Return the number of measured steps and the mean seconds of one, without the first few."""
    config, runtime, ranks = learner.config, learner.runtime, learner.ranks
    sampler = make_sampler(data, config.training, config.model.context_length)
    step, start, measured = 0, now(), 0.0
    while step <= FIRST_STEPS or measured < MEASURED_SECONDS:
        if step == FIRST_STEPS:
            start = now()
        factor = lr_factor(step + 1, config.schedule, config.schedule_steps or 1e9)
        learner.learn(*sampler.batch(step, ranks.rank, ranks.size, runtime.device), factor)
        runtime.synchronize()
        # All ranks use rank 0's clock, and stop after the same step.
        step, ((measured,), *_) = step + 1, ranks.all_gather_numbers([now() - start])
    return step - FIRST_STEPS, measured / (step - FIRST_STEPS)


def plan_lines(plan: Plan) -> list[str]:
    """Format a plan for a person, topic by topic, in aligned columns."""
    sections = [_model(plan), _memory(plan), _disk(plan), _time(plan)]
    return [line for rows in sections for line in _aligned(rows)]


Rows = list[tuple[str, str, str]]
"""Topic (once), name, value."""


def _model(plan: Plan) -> Rows:
    config, parameters = plan.config, num_parameters(plan.config.model)
    tokens = plan.steps * tokens_per_step(config)
    micro_batches = config.training.batch_size // plan.num_ranks // plan.micro_batch_size
    passes = "pass" if micro_batches == 1 else "passes"
    ranks = f" on each of {plan.num_ranks} ranks" if plan.num_ranks > 1 else ""
    return [
        ("model", "parameters", f"{parameters:,}"),
        ("", "without the embedding", f"{num_non_embedding_parameters(config.model):,}"),
        ("data", "tokens", f"{plan.train_tokens:,}"),
        ("", "trained on", f"{tokens:,.0f}, {tokens / plan.pass_tokens:.2f} passes"),
        ("", "per parameter", f"{tokens / parameters:.2g}"),
        ("step", "sequences", f"{config.training.batch_size} of {config.model.context_length} tokens"),
        ("", "at a time", f"{plan.micro_batch_size}{ranks}, in {micro_batches} {passes}"),
    ]


def _memory(plan: Plan) -> Rows:
    memory, device = plan.memory, plan.device_memory
    parts = ("weights", "gradients", "optimizer", "activations", "logits")
    rows = [("", name, readable(getattr(memory, name))) for name in parts]
    of_device = f" of {readable(device)}, {memory.total / device:.0%}" if device else ""
    too_much = ": more than there is" if device and memory.total > device else ""
    each = ", on each rank" if plan.num_ranks > 1 else ""
    rows.append(("", "in all", f"{readable(memory.total)}{of_device}{each}{too_much}"))
    return [("memory", *rows[0][1:]), *rows[1:]]


def _disk(plan: Plan) -> Rows:
    number, size = plan.config.training.keep_checkpoints + 1, plan.checkpoint_bytes
    return [
        ("disk", "token files", readable(plan.token_bytes)),
        (
            "",
            "checkpoints",
            f"{readable(number * size)}: {number} of {readable(size)}, the best one included",
        ),
        *_ngrams(plan),
        ("", "free", readable(plan.free_bytes)),
    ]


def _ngrams(plan: Plan) -> Rows:
    reason = why_none(plan.config, plan.train_tokens)
    if reason == "":
        return []
    size = readable(BYTES_PER_TOKEN * plan.train_tokens)
    return [("", "memory of n-grams", f"none: {reason}" if reason else size)]


def _time(plan: Plan) -> Rows:
    config = plan.config
    tokens_per_second = tokens_per_step(config) / plan.seconds_per_step
    flops = tokens_per_second * training_flops_per_token(config.model, config.model.context_length)
    places = f"{plan.num_ranks} x " if plan.num_ranks > 1 else ""
    share = f"{flops / plan.flops_ceiling:.0%} of {plan.flops_ceiling / 1e12:.3g} TFLOP/s, both measured"
    products = [("", "products", plan.machine.products)] if plan.machine else []
    chosen = [f"attention {config.runtime.attention}", f"compile {str(config.runtime.compile).lower()}"]
    chosen += [plan.machine.waiting] if plan.machine and plan.machine.waiting else []
    return [
        ("speed", "device", f"{places}{plan.runtime}"),
        *products,
        ("", "implementation", ", ".join(chosen)),
        ("", "tokens per second", f"{tokens_per_second:,.0f}, over {plan.measured_steps} steps"),
        ("", "of the ceiling", share),
        ("time", "steps", f"{plan.steps:,.0f}"),
        ("", "in all", duration(plan.seconds)),
    ]


def _aligned(rows: Rows) -> list[str]:
    return [f"{topic:<8}{what:<24}{value}" for topic, what, value in rows]


def _existing(path: Path) -> Path:
    """Return `path`, or its nearest parent that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())
