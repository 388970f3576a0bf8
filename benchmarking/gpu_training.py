"""Parts of bench_gpu that train: steps in all variants, the peers, resuming, memory that runs out."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from benchmarking.gpu_job import Job, LeftOutError, Numbers, batch, learner_of, measured, speed
from transformerlm.config import OptimizerConfig, ScheduleConfig, TrainConfig

if TYPE_CHECKING:
    import torch

    from transformerlm.training.trainer import Trainer


def training(
    job: Job, runtime: Mapping[str, Any] | None = None, *, guarded: bool = True, **options: Any
) -> Numbers:
    """Measure whole steps of this package."""
    from transformerlm.training.step_guard import StepGuard

    config = job.config(runtime, **options)
    learner = learner_of(config)
    ids = batch(job, learner.runtime.device)
    guard = StepGuard(config.training, learner.runtime.device) if guarded else None
    start = time.perf_counter()
    learner.learn(*ids, 1.0, guard=guard)
    learner.runtime.synchronize()
    first = time.perf_counter() - start
    work = functools.partial(learner.learn, *ids, 1.0, guard=guard)
    seconds = measured(work, learner.runtime.synchronize, job.seconds)
    scale = {"loss_scale": learner.scaler.get_scale()} if learner.scaler.is_enabled() else {}
    loss = learner.learn(*ids, 1.0).loss.item()
    if not math.isfinite(loss):
        raise ValueError(f"loss: expected a finite number, got {loss}")
    return {**speed(job, seconds), "first_step_seconds": first, "loss": loss, **scale}


def muon(job: Job) -> Numbers:
    """Measure steps with Muon."""
    config = dataclasses.replace(job.config(), optimizer=OptimizerConfig(name="muon"))
    learner = learner_of(config)
    ids = batch(job, learner.runtime.device)
    work = functools.partial(learner.learn, *ids, 1.0)
    return speed(job, measured(work, learner.runtime.synchronize, job.seconds))


def peer_training(job: Job, name: str) -> Numbers:
    """Measure whole steps of nanoGPT, compiled, or Hugging Face's Llama, with micro-batches like ours."""
    import torch

    from benchmarking.peers import hugging_face_llama
    from transformerlm.runtime import Runtime

    runtime, shape = Runtime.from_config(job.runtime()), job.shape
    if name == "nanoGPT":
        if job.nanogpt_dir is None:
            raise LeftOutError("--bench.nanogpt_dir= names a checkout")
        sys.path.insert(0, job.nanogpt_dir)
        from model import GPT, GPTConfig  # type: ignore[import-not-found]

        sizes = {"n_layer": shape.num_layers, "n_head": shape.num_heads, "n_embd": shape.d_model}
        config = GPTConfig(
            block_size=shape.context_length,
            vocab_size=shape.vocabulary_rows,
            dropout=0.0,
            bias=False,
            **sizes,
        )
        model: Any = GPT(config).to(runtime.device)
        optimizer = model.configure_optimizers(0.1, 3e-4, (0.9, 0.95), runtime.device.type)
        forward: Any = torch.compile(model) if job.device == "cuda" else model

        def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return forward(x, y)[1]  # type: ignore[no-any-return]
    else:
        model = hugging_face_llama(shape)
        if model is None:
            raise LeftOutError("transformers is not installed")
        model.to(runtime.device)
        is_fused = job.device == "cuda"
        optimizer = torch.optim.AdamW(model.parameters(), 3e-4, (0.9, 0.95), weight_decay=0.1, fused=is_fused)

        def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            logits = model(input_ids=x, use_cache=False).logits
            return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), y.flatten())

    ids, number = batch(job, runtime.device), job.batch_size // job.micro_batch_size

    def step() -> None:
        for x, y in zip(*(part.split(job.micro_batch_size) for part in ids), strict=True):
            with runtime.autocast():
                value = loss(x, y) / number
            torch.autograd.backward(value)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return speed(job, measured(step, runtime.synchronize, job.seconds))


def trainer_of(config: TrainConfig, folder: Path, name: str) -> Trainer:
    """Return a trainer on random tokens, resumed if there is a checkpoint."""
    import numpy as np
    import torch

    from transformerlm.checkpoint.run_directory import RunDirectory
    from transformerlm.data import TokenData, TokenFile, TokenWriter
    from transformerlm.progress import SilentReporter
    from transformerlm.runtime import prepare_process
    from transformerlm.training.trainer import Trainer

    path, vocabulary = folder / "tokens.memmap", config.model.vocab_size or 1
    if not path.exists():
        with TokenWriter.create(path, vocab_size=vocabulary, fingerprint="f") as writer:
            number = 200 * config.model.context_length
            ids = np.random.default_rng(0).integers(0, vocabulary, number).astype(np.uint16)
            writer.write(ids, num_documents=1, num_bytes=2 * number)
    runtime, run = prepare_process(config.runtime), RunDirectory(folder / name)
    found = run.resume_point("auto", SilentReporter())
    torch.manual_seed(0)
    trainer = Trainer(config, TokenData(TokenFile.open(path), None), run, runtime, SilentReporter())
    if found:
        trainer.restore(found)
    return trainer


def resume(job: Job) -> Numbers:
    """Train straight and with a stop, deterministically, and compare the bits."""
    import torch

    from transformerlm.logging import NullLogger

    def train(name: str, steps: int) -> Trainer:
        training = {"max_steps": steps, "log_every": 4, "validate_every": 0, "checkpoint_every": 0}
        config = job.config({"deterministic": True}, **training)
        # The same learning rates, wherever the run stops.
        config = dataclasses.replace(config, schedule=ScheduleConfig(warmup_steps=1, cosine_steps=10))
        trainer = trainer_of(config, folder, name)
        trainer.train(NullLogger())
        return trainer

    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        straight = train("straight", 10)
        train("stopped", 5)
        stopped = train("stopped", 10)
        pairs = [*zip(straight.model.parameters(), stopped.model.parameters(), strict=True)]
        distance = max((a - b).abs().max().item() for a, b in pairs)
        is_equal = all(torch.equal(a, b) for a, b in pairs)
    return {"said": "the same bits" if is_equal else f"differs by at most {distance:.2g}"}


def prefetch(job: Job) -> Numbers:
    """Measure steps with batches made when they are wanted, and ahead."""
    found: Numbers = {}
    with tempfile.TemporaryDirectory() as name:
        trainer = trainer_of(job.config(validate_every=0, checkpoint_every=0), Path(name), "run")
        trainer.learner.prepare()

        def step() -> None:
            trainer.take_step()
            trainer.undecided.clear()

        seconds = measured(step, trainer.runtime.synchronize, job.seconds / 2)
        with trainer.batches.prepared_ahead():
            ahead = measured(step, trainer.runtime.synchronize, job.seconds / 2)
        found |= {"without_seconds": seconds, "with_seconds": ahead, "gain": seconds / ahead - 1}
    return found


def out_of_memory(job: Job) -> Numbers:
    """Let memory run out, for real: a micro-batch of everything, in a small part of the memory."""
    import torch

    if job.device != "cuda":
        raise LeftOutError("no GPU")
    automatic = learner_of(job.config(micro_batch_size="auto")).micro_batches.size
    torch.cuda.empty_cache()
    size = 64 * job.micro_batch_size
    wide = dataclasses.replace(job, batch_size=size, micro_batch_size=size)
    learner = learner_of(wide.config())
    total = torch.cuda.get_device_properties(learner.runtime.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 12 * 2**30 / total))
    loss = learner.learn(*batch(wide, learner.runtime.device), 1.0).loss.item()
    return {
        "said": f"auto: {automatic} at a time; {size} became {learner.micro_batches.size}, loss {loss:.3f}"
    }


def sharded(job: Job) -> Numbers:
    """Take steps with sharding = "full" on one device."""
    from transformerlm.distributed.collectives import ConnectedRanks
    from transformerlm.distributed.sharding import Sharded
    from transformerlm.distributed.world import World
    from transformerlm.training import learner as module

    ranks, address = ConnectedRanks(World(0, 1, 0, 1)), {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}

    def make_parallelism(kind: str, _: object, dtype: torch.dtype | None) -> Sharded:
        return Sharded(ranks, dtype)  # though one rank needs none

    with (
        patch.dict(os.environ, address),
        ranks.connected("nccl" if job.device == "cuda" else "gloo"),
        patch.object(module, "make_parallelism", make_parallelism),
    ):
        return training(job, {"kernels": False})
