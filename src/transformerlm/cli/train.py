"""transformerlm-train: from text, or from what was made of it before, to a model that writes.

`torchrun --nproc-per-node N -m transformerlm.cli.train` trains on N devices, of one machine or several.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformerlm.cli.common import run_command
from transformerlm.cli.ranks import on_ranks
from transformerlm.cli.terminal import Terminal
from transformerlm.config import TrainConfig
from transformerlm.distributed import agreement, barrier, broadcast_bytes, rank_0_alone, shared_fate
from transformerlm.errors import ConfigError
from transformerlm.parallel import available_cores
from transformerlm.progress import Reporter
from transformerlm.schema import to_dict
from transformerlm.world import ALONE, World

if TYPE_CHECKING:
    from transformerlm.data import TokenData, TokenFile
    from transformerlm.logging import Logger
    from transformerlm.nn import TransformerLM
    from transformerlm.runtime import Runtime
    from transformerlm.tokenizer import Tokenizer
    from transformerlm.trainer import Trainer

XZ_LIMIT_BYTES = 16_000_000
"""Larger texts are not compressed for comparison: xz takes about a second a megabyte."""


def main(argv: Sequence[str] | None = None) -> int:
    """The console command."""
    description = "Train a language model; a tokenizer and token files that are missing are made first."
    shortcuts, modes = {"resume": "training.resume"}, {"plan": plan}
    return on_ranks(
        lambda: run_command(
            TrainConfig, train, description=description, shortcuts=shortcuts, modes=modes, argv=argv
        ),
        backend="nccl",
    )


def train(config: TrainConfig) -> int:
    """Tokenizer, token files, training, samples: what is there and fits is used, the rest is made."""
    reporter, world = Terminal(), World.from_environment()
    with shared_fate(world):
        tokenizer, data = prepare(config, reporter, world)
        status = train_model(with_vocabulary(config, tokenizer), data, tokenizer, reporter, world)
        barrier(world)
    return status


def plan(config: TrainConfig) -> None:
    """Say what training would take (memory, disk, time), after a few steps on the data, and do no more."""
    reporter, world = Terminal(), World.from_environment()
    with shared_fate(world):
        tokenizer, data = prepare(config, reporter, world)
        # Imported only now, as in train_model.
        from transformerlm.learner import share_of_batch
        from transformerlm.logging import resolved_run_name
        from transformerlm.plan import make_plan, plan_lines

        config = with_vocabulary(config, tokenizer)
        path = run_path(config, resolved_run_name(config.logging))
        with agreement(world):
            share_of_batch(config, world)
            runtime = runtime_of(config, world)
        found = make_plan(config, data, path, runtime, reporter, world=world)
        print("\n".join(plan_lines(found)))


def prepare(config: TrainConfig, reporter: Reporter, world: World = ALONE) -> tuple[Tokenizer, TokenData]:
    """The tokenizer and the token files, made where they are missing; all ranks read the latter."""
    from transformerlm.data import prepare_data, prepare_tokenizer

    with agreement(world):
        tokenizer = prepare_tokenizer(config.data, config.tokenizer, reporter, world)
        return tokenizer, prepare_data(config.data, config.tokenizer, tokenizer, reporter, world)


def with_vocabulary(config: TrainConfig, tokenizer: Tokenizer) -> TrainConfig:
    """The config with the model's vocabulary known: the tokenizer's, or a larger one that was asked for.

    Raises:
        ConfigError: for a model with fewer rows than the tokenizer has ids.
    """
    asked, needed = config.model.vocab_size, tokenizer.vocab_size
    if asked is not None and asked < needed:
        raise ConfigError(f"[model].vocab_size: expected at least the tokenizer's {needed} ids, got {asked}")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=asked or needed))


def runtime_of(config: TrainConfig, world: World) -> Runtime:
    """What this rank computes on: its own GPU, or its part of the CPU's cores.

    Raises:
        ConfigError: where there is no such device, or none for each rank.
    """
    import torch

    from transformerlm.runtime import Runtime, resolve_device

    runtime = config.runtime
    if world.size == 1:
        return Runtime.from_config(runtime)
    device = resolve_device(runtime.device).type
    if device == "mps":
        raise ConfigError('[runtime].device: several ranks compute on "cuda" or "cpu", got mps')
    if device == "cuda":
        if world.local_size > torch.cuda.device_count():
            what = f"{world.local_size} ranks of this machine, got {torch.cuda.device_count()}"
            raise ConfigError(f"[runtime].device: expected a GPU for each of the {what}")
        torch.cuda.set_device(world.local_rank)
    num_threads = runtime.num_threads or max(1, available_cores() // world.local_size)
    return Runtime.from_config(dataclasses.replace(runtime, num_threads=num_threads))


def train_model(
    config: TrainConfig, data: TokenData, tokenizer: Tokenizer, reporter: Reporter, world: World = ALONE
) -> int:
    """Train in the run's folder, from where it stopped before; then show what came of it."""
    # Imported only now: torch takes seconds, and worker processes are quicker to start without it.
    from transformerlm.infer import check_prompts
    from transformerlm.logging import CombinedLogger, resolved_run_name

    with agreement(world):
        check_prompts(tokenizer, config.generation)
    run_name = broadcast_bytes(world, resolved_run_name(config.logging).encode()).decode()
    trainer = make_trainer(config, data, run_path(config, run_name), reporter, world)
    with agreement(world):
        loggers = begin(trainer, tokenizer, run_name, reporter) if world.is_main else []
    with CombinedLogger(loggers) as logger:
        logger.log_config(to_dict(config))
        run_dir = trainer.run.path
        logger.log_artifact(run_dir / "tokenizer", f"tokenizer-{run_dir.name}", "tokenizer")
        status = trainer.train(logger)
        if status:
            reporter.say(f"stopped after step {trainer.step}; the same command goes on from there")
            return status
        show(trainer, tokenizer, reporter, loggers)
    reporter.say(f'done: {run_dir}; more text: transformerlm-infer --infer.checkpoint="{run_dir}"')
    return 0


def make_trainer(
    config: TrainConfig, data: TokenData, path: Path, reporter: Reporter, world: World
) -> Trainer:
    """A run's trainer, as it was when it stopped before."""
    from transformerlm.rundir import RunDirectory, check_same_on_all_ranks, identity
    from transformerlm.trainer import Trainer

    with agreement(world):
        check_same_on_all_ranks(world, config, identity(config, data))
    run = RunDirectory(path)
    found = run.resume_point(config.training.resume, reporter, world)
    with agreement(world):
        runtime = runtime_of(config, world)
        trainer = Trainer(config, data, run, runtime, reporter, world=world)
    if found:
        trainer.restore(found)
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


def show(trainer: Trainer, tokenizer: Tokenizer, reporter: Reporter, loggers: list[Logger]) -> None:
    """Say how good the model has become, and let it write."""
    config, step = trainer.config, trainer.step
    model = trainer.whole_model()
    with rank_0_alone(trainer.world):
        if trainer.world.is_main:
            if config.training.max_time is not None:
                short = ", all of them in the warm-up" if step <= config.schedule.warmup_steps else ""
                reporter.say(f"trained: {step} steps in {config.training.max_time}{short}")
            compare_with_xz(trainer, tokenizer, reporter)
            write_samples(trainer, model, tokenizer, loggers[0])


def run_path(config: TrainConfig, run_name: str) -> Path:
    """[training].run_dir with its placeholders filled in."""
    from transformerlm.data import fill_placeholders

    return Path(fill_placeholders(config.training.run_dir, config.data).replace("{run_name}", run_name))


def introduce(trainer: Trainer, reporter: Reporter) -> None:
    """Say what is about to be trained, on what, and where."""
    from transformerlm.nn import num_parameters

    budget, train_tokens = trainer.budget, trainer.data.train.num_tokens
    places = f"{trainer.world.size} x " if trainer.world.size > 1 else ""
    reporter.say(f"model: {num_parameters(trainer.config.model):,} parameters, on {places}{trainer.runtime}")
    steps = trainer.config.training.steps_in_budget(trainer.config.model.context_length)
    passes = f"{steps * budget.tokens_per_step / train_tokens:.2f} passes over" if steps else "on"
    reporter.say(f"training: {budget}, {passes} {train_tokens:,} tokens, into {trainer.run.path}")
    if trainer.step:
        reporter.say(f"resumed: {trainer.run.path}, {budget.done(trainer.step)}")


def compare_with_xz(trainer: Trainer, tokenizer: Tokenizer, reporter: Reporter) -> None:
    """Say what the validation text costs the model and what it costs a good compressor."""
    from transformerlm.evaluate import xz_bits_per_byte

    train, val, newest = trainer.data.train, trainer.data.val, trainer.newest
    if val is None or newest is None:
        return
    found = newest.evaluation
    ours = (
        f"{found.bits_per_byte:.3f} bits per byte (loss {found.loss:.3f}, perplexity {found.perplexity:.1f})"
    )
    reporter.say(f"validation: {ours}")
    if val.num_bytes > XZ_LIMIT_BYTES:
        return
    separator = tokenizer.special_token_ids.get(trainer.config.data.document_separator, -1)

    def text(file: TokenFile) -> bytes:
        return tokenizer.decode_bytes(file.tokens[file.tokens != separator])

    line = f"xz -9e on the same text: {xz_bits_per_byte(text(val)):.3f} bits per byte"
    if train.num_bytes + val.num_bytes <= XZ_LIMIT_BYTES:
        line += f"; {xz_bits_per_byte(text(val), after=text(train)):.3f} when it has read the training text"
    reporter.say(line)


def write_samples(trainer: Trainer, model: TransformerLM, tokenizer: Tokenizer, logger: Logger) -> None:
    """Continue the prompts of [generation], log the texts and keep them in the run's folder."""
    from transformerlm.infer import complete, completion_values
    from transformerlm.logging import MetricsFile

    config, run, generation = trainer.config, trainer.run, trainer.config.generation
    with trainer.runtime.autocast():
        completions = complete(model, tokenizer, generation, seed=config.runtime.seed)
    run.samples.unlink(missing_ok=True)
    with MetricsFile(run.samples) as samples:
        for completion in completions:
            values = completion_values(completion, generation)
            logger.log(values, trainer.step)
            samples.log(values, trainer.step)


if __name__ == "__main__":
    sys.exit(main())
