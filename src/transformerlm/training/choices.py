"""Resolution of "auto" in [runtime] of a run: measured on this machine, or as the run began."""

from __future__ import annotations

import dataclasses

import torch

from transformerlm.checkpoint.own_settings import own_table
from transformerlm.checkpoint.store import Checkpoint
from transformerlm.config import RuntimeConfig, TrainConfig
from transformerlm.limits import available_cores
from transformerlm.runtime import (
    Precision,
    Runtime,
    choose_attention,
    choose_compilation,
    choose_num_threads,
    choose_precision,
    set_up_process,
)
from transformerlm.schema import SchemaError, from_dict, to_dict
from transformerlm.training.memory import TOKENS_PER_PASS
from transformerlm.training.part_speed import attention_seconds, block_seconds

LONG_SECONDS, LONG_STEPS = 600.0, 5000
"""Budget from which a run is long enough for torch.compile to be measured and used."""
AUTO = "auto"


def keep_begun(config: RuntimeConfig, found: Checkpoint | None) -> RuntimeConfig:
    """Return [runtime] with what the run began with in place of "auto"; a new run has nothing.

    Threads beyond the processors of this machine are not kept. Older runs have "auto" in their checkpoints.
    """
    begun = own_table(found.about, "runtime") if found else {}
    for key in ("dtype", "attention", "compile", "num_threads"):
        if getattr(config, key) == AUTO and begun.get(key) not in (None, AUTO):
            try:
                config = from_dict(RuntimeConfig, {**to_dict(config), key: begun[key]}, source="")
            except SchemaError:  # not a run of this package; resuming says what is wrong with it
                continue
    if isinstance(config.num_threads, int) and begun.get("num_threads") == config.num_threads:
        return dataclasses.replace(config, num_threads=min(config.num_threads, available_cores()))
    return config


def resolve_runtime(
    config: TrainConfig, runtime: RuntimeConfig, precision: Precision, *, owns_process: bool
) -> RuntimeConfig:
    """Return `runtime` without "auto", but for the device, by what is fast on this machine for this model.

    Args:
        runtime: [runtime] in place of that of `config`.
        precision: what its dtype stands for.
        owns_process: False keeps the number of threads "auto": it is the host program's.
    """
    model, training = config.model, config.training
    seconds, steps = training.max_seconds, training.steps_in_budget(model.context_length)
    is_long = seconds >= LONG_SECONDS if seconds is not None else (steps or 0) >= LONG_STEPS
    resolved = Runtime.of(runtime, precision)
    num_threads = runtime.num_threads
    if num_threads == AUTO and owns_process and resolved.device.type == "cpu":
        tokens = min(training.batch_size * model.context_length, TOKENS_PER_PASS["cpu"])
        num_threads = choose_num_threads(model, tokens, precision.name)
        torch.set_num_threads(num_threads)
    values = {
        "dtype": precision.name,
        "attention": choose_attention(runtime, model, resolved, attention_seconds),
        "compile": choose_compilation(
            runtime, model, resolved, block_seconds, is_long=is_long, run_seconds=seconds
        ),
        "num_threads": num_threads,
    }
    return from_dict(RuntimeConfig, {**to_dict(runtime), **values}, source="")


def resolved_config(config: TrainConfig) -> TrainConfig:
    """Return the config of a new run of a single process without "auto" in [runtime], but for the device.

    For a command: sets up the process ([runtime].num_threads, seed), and measures what is not yet kept.

    Args:
        config: with a known `model.vocab_size`.

    Raises:
        ConfigError: this machine does not have [runtime].device.
    """
    set_up_process(config.runtime)
    precision = choose_precision(config.runtime, config.model)
    runtime = resolve_runtime(config, config.runtime, precision, owns_process=True)
    return dataclasses.replace(config, runtime=runtime)
