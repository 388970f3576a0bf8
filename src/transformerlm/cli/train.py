"""transformerlm-train: from text, or from what was made of it before, to a model that writes.

`torchrun --nproc-per-node N -m transformerlm.cli.train` trains on N devices, of one machine or several.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformerlm.cli.command import Mode, run_command
from transformerlm.cli.terminal import Terminal
from transformerlm.cli.torchrun import on_ranks
from transformerlm.config import TrainConfig
from transformerlm.distributed.collectives import (
    barrier,
    broadcast_bytes,
    collective_errors,
    fail_together,
    while_rank_0_works,
)
from transformerlm.distributed.world import SINGLE_PROCESS, World
from transformerlm.errors import ConfigError
from transformerlm.parallel import available_cores
from transformerlm.progress import Reporter
from transformerlm.schema import to_dict
from transformerlm.signals import end_at_interrupts
from transformerlm.storage.files import full_disk_said, remove_dead_temporaries, require_free_bytes
from transformerlm.storage.lock import LOCK_FILE, locked
from transformerlm.training.report import introduce, show

if TYPE_CHECKING:
    from transformerlm.data import TokenData
    from transformerlm.logging import Logger
    from transformerlm.runtime import Runtime
    from transformerlm.tokenizer import Tokenizer
    from transformerlm.training.trainer import Trainer


def main(argv: Sequence[str] | None = None) -> int:
    """The console command."""
    description = "Train a language model; a tokenizer and token files that are missing are made first."
    shortcuts = {"resume": "training.resume"}
    modes: dict[str, Mode] = {"plan": plan, "verify-resume": prove_resume}
    return on_ranks(
        lambda: run_command(
            TrainConfig, train, description=description, shortcuts=shortcuts, modes=modes, argv=argv
        ),
        backend="nccl",
    )


def train(config: TrainConfig) -> int:
    """Tokenizer, token files, training, samples: what is there and fits is used, the rest is made."""
    reporter, world = Terminal(), World.from_environment()
    with fail_together(world), own_folder(config, world) as (run_dir, run_name):
        check_start(config, run_dir, reporter, world)
        tokenizer, data = prepare(config, reporter, world)
        config = with_vocabulary(config, tokenizer, data)
        status = train_model(config, data, tokenizer, run_dir, run_name, reporter, world)
        barrier(world)
    return status


@contextlib.contextmanager
def own_folder(config: TrainConfig, world: World) -> Iterator[tuple[Path, str]]:
    """The run's folder and its name, for this process, or these ranks, alone; what killed ones left is gone.

    Raises:
        LockedError: another process trains there. (AgreedError on several ranks.)
    """
    from transformerlm.logging import resolved_run_name

    run_name = broadcast_bytes(world, resolved_run_name(config.logging).encode()).decode()
    run_dir = run_path(config, run_name)
    with contextlib.ExitStack() as stack:
        with collective_errors(world):
            if world.is_main:
                with full_disk_said(run_dir / LOCK_FILE):
                    stack.enter_context(locked(run_dir))
                for folder in (run_dir, run_dir / "checkpoints"):
                    remove_dead_temporaries(folder)
        yield run_dir, run_name


def prove_resume(config: TrainConfig, steps: int) -> None:
    """Prove that a stopped run goes on to the same bits: STEPS steps from its newest checkpoint."""
    reporter, world = Terminal(), World.from_environment()
    with fail_together(world), own_folder(config, world) as (run_dir, _):
        tokenizer, data = prepare(config, reporter, world)
        config = with_vocabulary(config, tokenizer, data)
        # Imported only now, as in train_model.
        from transformerlm.checkpoint.run_directory import RunDirectory
        from transformerlm.training.trainer import Trainer
        from transformerlm.training.verify_resume import verify_resume

        with collective_errors(world):
            runtime = runtime_of(config, world)

        def make(run: RunDirectory) -> Trainer:
            return Trainer(config, data, run, runtime, reporter, lambda: 0.0, world)

        verify_resume(make, RunDirectory(run_dir), steps)
        barrier(world)


def plan(config: TrainConfig) -> None:
    """Say what training would take (memory, disk, time), after a few steps on the data, and do no more."""
    reporter, world = Terminal(), World.from_environment()
    with fail_together(world):
        tokenizer, data = prepare(config, reporter, world)
        # Imported only now, as in train_model.
        from transformerlm.logging import resolved_run_name
        from transformerlm.training.microbatch import share_of_batch
        from transformerlm.training.plan import make_plan, plan_lines

        config = with_vocabulary(config, tokenizer, data)
        path = run_path(config, resolved_run_name(config.logging))
        with collective_errors(world):
            share_of_batch(config, world)
            runtime = runtime_of(config, world)
        found = make_plan(config, data, path, runtime, reporter, world=world)
        print("\n".join(plan_lines(found)))


def check_start(config: TrainConfig, run_dir: Path, reporter: Reporter, world: World) -> None:
    """Find out whether the run can begin where [training].start_from says before anything is made for it."""
    if config.training.start_from is None:
        return
    from transformerlm.checkpoint.store import checkpoint_paths
    from transformerlm.training.init_from import starting_point

    with while_rank_0_works(world):
        if world.is_main and not checkpoint_paths(run_dir / "checkpoints"):
            starting_point(config, reporter)


def prepare(
    config: TrainConfig, reporter: Reporter, world: World = SINGLE_PROCESS
) -> tuple[Tokenizer, TokenData]:
    """The tokenizer and the token files, made where they are missing; all ranks read the latter."""
    from transformerlm.data import prepare_data, prepare_tokenizer

    with collective_errors(world):
        tokenizer = prepare_tokenizer(config.data, config.tokenizer, reporter, world)
        return tokenizer, prepare_data(config.data, config.tokenizer, tokenizer, reporter, world)


def with_vocabulary(config: TrainConfig, tokenizer: Tokenizer, data: TokenData) -> TrainConfig:
    """The config with the model's vocabulary known: the tokenizer's, or a larger one that was asked for.

    Raises:
        ConfigError: a model with fewer rows than the tokenizer has ids, or a context longer than the data.
    """
    asked, needed = config.model.vocab_size, tokenizer.vocab_size
    length, tokens = config.model.context_length, data.train.num_tokens
    problems = []
    if asked is not None and asked < needed:
        problems.append(f"[model].vocab_size: expected at least the tokenizer's {needed} ids, got {asked}")
    if length >= tokens:
        what = f"expected at most {tokens - 1}, for the {tokens} tokens to train on"
        problems.append(f"[model].context_length: {what}, got {length}")
    if problems:
        raise ConfigError(problems)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=asked or needed))


def runtime_of(config: TrainConfig, world: World) -> Runtime:
    """What this rank computes on: its own GPU, or its part of the CPU's cores.

    Raises:
        ConfigError: where there is no such device, or none for each rank.
    """
    import torch

    from transformerlm.runtime import prepare_process, resolve_device

    runtime = config.runtime
    if world.size == 1:
        return prepare_process(runtime)
    device = resolve_device(runtime.device).type
    if device == "mps":
        raise ConfigError('[runtime].device: several ranks compute on "cuda" or "cpu", got mps')
    if device == "cuda":
        if world.local_size > torch.cuda.device_count():
            what = f"{world.local_size} ranks of this machine, got {torch.cuda.device_count()}"
            raise ConfigError(f"[runtime].device: expected a GPU for each of the {what}")
        torch.cuda.set_device(world.local_rank)
    num_threads = runtime.num_threads or max(1, available_cores() // world.local_size)
    return prepare_process(dataclasses.replace(runtime, num_threads=num_threads))


def train_model(
    config: TrainConfig,
    data: TokenData,
    tokenizer: Tokenizer,
    run_dir: Path,
    run_name: str,
    reporter: Reporter,
    world: World = SINGLE_PROCESS,
) -> int:
    """Train in the run's folder, from where it stopped before; then show what came of it."""
    # Imported only now: torch takes seconds, and worker processes are quicker to start without it.
    from transformerlm.infer import check_prompts
    from transformerlm.logging import CombinedLogger
    from transformerlm.nn.accounting import checkpoint_bytes

    with collective_errors(world):
        check_prompts(tokenizer, config.generation)
        if world.is_main:
            num_bytes = 2 * checkpoint_bytes(config.model, config.optimizer.name)
            require_free_bytes(run_dir, num_bytes, "two checkpoints")
    trainer = make_trainer(config, data, run_dir, reporter, world)
    with collective_errors(world):
        loggers = begin(trainer, tokenizer, run_name, reporter) if world.is_main else []
    with CombinedLogger(loggers) as logger:
        logger.log_config(to_dict(config))
        logger.log_artifact(run_dir / "tokenizer", f"tokenizer-{run_dir.name}", "tokenizer")
        status = trainer.train(logger)
        if status:
            end_at_interrupts()
            reporter.say(f"stopped after step {trainer.step}; the same command goes on from there")
            return status
        show(trainer, tokenizer, reporter, loggers)
    reporter.say(f'done: {run_dir}; more text: transformerlm-infer --infer.checkpoint="{run_dir}"')
    return 0


def make_trainer(
    config: TrainConfig, data: TokenData, path: Path, reporter: Reporter, world: World
) -> Trainer:
    """A run's trainer, as it was when it stopped before, or at the beginning."""
    from transformerlm.checkpoint.run_directory import RunDirectory, check_same_on_all_ranks, identity
    from transformerlm.training.init_from import take_weights
    from transformerlm.training.trainer import Trainer

    with collective_errors(world):
        check_same_on_all_ranks(world, config, identity(config, data))
    run = RunDirectory(path)
    found = run.resume_point(config.training.resume, reporter, world)
    with collective_errors(world):
        runtime = runtime_of(config, world)
        trainer = Trainer(config, data, run, runtime, reporter, world=world)
    if found:
        trainer.restore(found)
    elif config.training.start_from is not None:
        take_weights(trainer.learner, config, reporter, world)
    return trainer


def begin(trainer: Trainer, tokenizer: Tokenizer, run_name: str, reporter: Reporter) -> list[Logger]:
    """Write what a run's folder begins with, and say what it is; where to log: the backend and a file."""
    from transformerlm.logging import MetricsFile, make_logger

    config, run = trainer.config, trainer.run
    run.start(config, tokenizer)
    metrics = MetricsFile(run.metrics)
    metrics.truncate_after(trainer.step)
    introduce(trainer, reporter)
    dataset = config.logging.dataset or config.data.corpus_name
    logging = dataclasses.replace(config.logging, dataset=dataset)
    return [make_logger(logging, config.wandb, run.path, run_name), metrics]


def run_path(config: TrainConfig, run_name: str) -> Path:
    """[training].run_dir with its placeholders filled in."""
    from transformerlm.data import fill_placeholders

    return Path(fill_placeholders(config.training.run_dir, config.data).replace("{run_name}", run_name))


if __name__ == "__main__":
    sys.exit(main())
