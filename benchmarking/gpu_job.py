"""Sizes of bench_gpu, and what its parts have in common: a learner, a batch, the measurement of steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformerlm.config import ModelConfig, RuntimeConfig, ScheduleConfig, TrainConfig, TrainingConfig
from transformerlm.schema import from_dict

if TYPE_CHECKING:
    from transformerlm.training.learner import Learner

Numbers = dict[str, float | str]


class LeftOutError(Exception):
    """A part that this machine cannot run, with the reason."""


@dataclass(frozen=True)
class Job:
    """Sizes of all parts."""

    model: dict[str, Any]
    device: str
    """"cuda" or "cpu"."""
    dtype: str
    batch_size: int
    micro_batch_size: int
    seconds: float
    """Duration of a measurement."""
    new_tokens: int
    nanogpt_dir: str | None

    @property
    def shape(self) -> ModelConfig:
        """The model."""
        return from_dict(ModelConfig, self.model, source="")

    def runtime(self, **changes: Any) -> RuntimeConfig:
        """[runtime] of this job."""
        return from_dict(
            RuntimeConfig, {"device": self.device, "dtype": self.dtype, "compile": False} | changes, source=""
        )

    def config(self, runtime: Mapping[str, Any] | None = None, **training: Any) -> TrainConfig:
        """Return the config of a training."""
        sizes = {"batch_size": self.batch_size, "micro_batch_size": self.micro_batch_size}
        section = from_dict(TrainingConfig, {"max_steps": 1_000_000, **sizes, **training}, source="")
        own = self.runtime(**(runtime or {}))
        schedule = ScheduleConfig(warmup_steps=1)
        return TrainConfig(model=self.shape, schedule=schedule, training=section, runtime=own)


def measured(work: Callable[[], object], synchronize: Callable[[], None], seconds: float) -> float:
    """Return the mean seconds of `work`, after two times that do not count."""
    for _ in range(2):
        work()
    synchronize()
    number, start = 0, time.perf_counter()
    while not number or time.perf_counter() - start < seconds:
        work()
        number += 1
        if number % 4 == 0:  # a queue without end would be measured in place of the device
            synchronize()
    synchronize()
    return (time.perf_counter() - start) / number


def learner_of(config: TrainConfig) -> Learner:
    """Return a learner, ready for its first step."""
    import torch

    from transformerlm.progress import SilentReporter
    from transformerlm.runtime import prepare_process
    from transformerlm.training.learner import Learner

    runtime = prepare_process(config.runtime)
    torch.manual_seed(0)
    learner = Learner(config, runtime, SilentReporter())
    learner.prepare()
    return learner


def speed(job: Job, seconds: float) -> Numbers:
    """Return the numbers of training steps of `seconds`."""
    import torch

    from transformerlm.nn import training_flops_per_token

    tokens = job.batch_size * job.shape.context_length / seconds
    flops = tokens * training_flops_per_token(job.shape, job.shape.context_length)
    peak = {"peak_bytes": torch.cuda.max_memory_allocated()} if job.device == "cuda" else {}
    return {"tokens_per_second": tokens, "flops": flops, **peak}


def batch(job: Job, device: Any) -> tuple[Any, Any]:
    """Return random tokens, and random targets."""
    import torch

    size = 2, job.batch_size, job.shape.context_length
    ids = torch.randint(job.shape.vocab_size or 1, size, dtype=torch.long, device=device)
    return ids[0], ids[1]
