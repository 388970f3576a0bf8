"""transformerlm-train: from text, or from what was made of it before, to a model that writes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformerlm.cli.common import run_command
from transformerlm.cli.terminal import Terminal
from transformerlm.config import TrainConfig
from transformerlm.errors import ConfigError
from transformerlm.progress import Reporter
from transformerlm.schema import to_dict

if TYPE_CHECKING:
    from transformerlm.data import TokenData
    from transformerlm.logging import Logger
    from transformerlm.tokenizer import Tokenizer
    from transformerlm.trainer import Trainer

XZ_LIMIT_BYTES = 16_000_000
"""Validation texts larger than this are not compressed for comparison: xz takes about a second a megabyte."""


def main(argv: Sequence[str] | None = None) -> int:
    """The console command."""
    description = "Train a language model; a tokenizer and token files that are missing are made first."
    shortcuts, modes = {"resume": "training.resume"}, {"plan": plan}
    return run_command(
        TrainConfig, train, description=description, shortcuts=shortcuts, modes=modes, argv=argv
    )


def train(config: TrainConfig) -> int:
    """Tokenizer, token files, training, samples: what is there and fits is used, the rest is made."""
    reporter = Terminal()
    tokenizer, data = prepare(config, reporter)
    return train_model(with_vocabulary(config, tokenizer), data, tokenizer, reporter)


def plan(config: TrainConfig) -> None:
    """Say what training would take (memory, disk, time), after a few steps on the data, and do no more."""
    reporter = Terminal()
    tokenizer, data = prepare(config, reporter)
    # Imported only now, as in train_model.
    from transformerlm.logging import resolved_run_name
    from transformerlm.plan import make_plan, plan_lines
    from transformerlm.runtime import Runtime

    config = with_vocabulary(config, tokenizer)
    path = run_path(config, resolved_run_name(config.logging))
    found = make_plan(config, data, path, Runtime.from_config(config.runtime), reporter)
    print("\n".join(plan_lines(found)))


def prepare(config: TrainConfig, reporter: Reporter) -> tuple[Tokenizer, TokenData]:
    """The tokenizer and the token files, made where they are missing."""
    from transformerlm.data import prepare_data, prepare_tokenizer

    tokenizer = prepare_tokenizer(config.data, config.tokenizer, reporter)
    return tokenizer, prepare_data(config.data, config.tokenizer, tokenizer, reporter)


def with_vocabulary(config: TrainConfig, tokenizer: Tokenizer) -> TrainConfig:
    """The config with the model's vocabulary known: the tokenizer's, or a larger one that was asked for.

    Raises:
        ConfigError: for a model with fewer rows than the tokenizer has ids.
    """
    asked, needed = config.model.vocab_size, tokenizer.vocab_size
    if asked is not None and asked < needed:
        raise ConfigError(f"[model].vocab_size: expected at least the tokenizer's {needed} ids, got {asked}")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=asked or needed))


def train_model(config: TrainConfig, data: TokenData, tokenizer: Tokenizer, reporter: Reporter) -> int:
    """Train in the run's folder, from where it stopped before; then show what came of it."""
    # Imported only now: torch takes seconds, and worker processes are quicker to start without it.
    from transformerlm.infer import check_prompts
    from transformerlm.logging import CombinedLogger, MetricsFile, make_logger, resolved_run_name
    from transformerlm.rundir import RunDirectory
    from transformerlm.runtime import Runtime
    from transformerlm.trainer import Trainer

    check_prompts(tokenizer, config.generation)
    run_name = resolved_run_name(config.logging)
    run = RunDirectory(run_path(config, run_name))
    found = run.resume_point(config.training.resume, reporter)
    trainer = Trainer(config, data, run, Runtime.from_config(config.runtime), reporter)
    if found:
        trainer.restore(found)
    run.start(config, tokenizer)
    metrics = MetricsFile(run.metrics)
    metrics.truncate_after(trainer.step)
    introduce(trainer, reporter)
    dataset = config.logging.dataset or config.data.corpus_name
    logging = dataclasses.replace(config.logging, dataset=dataset)
    backend = make_logger(logging, config.wandb, run.path, run_name)
    with CombinedLogger([backend, metrics]) as logger:
        logger.log_config(to_dict(config))
        logger.log_artifact(run.path / "tokenizer", f"tokenizer-{run.path.name}", "tokenizer")
        status = trainer.train(logger)
        if status:
            reporter.say(f"stopped after step {trainer.step}; the same command goes on from there")
            return status
        if config.training.max_time is not None:
            short = ", all of them in the warm-up" if trainer.step <= config.schedule.warmup_steps else ""
            reporter.say(f"trained: {trainer.step} steps in {config.training.max_time}{short}")
        compare_with_xz(trainer, tokenizer, reporter)
        write_samples(trainer, tokenizer, backend)
    reporter.say(f'done: {run.path}; more text: transformerlm-infer --infer.checkpoint="{run.path}"')
    return 0


def run_path(config: TrainConfig, run_name: str) -> Path:
    """[training].run_dir with its placeholders filled in."""
    from transformerlm.data import fill_placeholders

    return Path(fill_placeholders(config.training.run_dir, config.data).replace("{run_name}", run_name))


def introduce(trainer: Trainer, reporter: Reporter) -> None:
    """Say what is about to be trained, on what, and where."""
    from transformerlm.nn import num_parameters

    budget, train_tokens = trainer.budget, trainer.data.train.num_tokens
    reporter.say(f"model: {num_parameters(trainer.config.model):,} parameters, on {trainer.runtime}")
    steps = trainer.config.training.steps_in_budget(trainer.config.model.context_length)
    passes = f"{steps * budget.tokens_per_step / train_tokens:.2f} passes over" if steps else "on"
    reporter.say(f"training: {budget}, {passes} {train_tokens:,} tokens, into {trainer.run.path}")
    if trainer.step:
        reporter.say(f"resumed: {trainer.run.path}, {budget.done(trainer.step)}")


def compare_with_xz(trainer: Trainer, tokenizer: Tokenizer, reporter: Reporter) -> None:
    """Say what the validation text costs the model and what it costs a good compressor."""
    from transformerlm.evaluate import xz_bits_per_byte

    val, newest = trainer.data.val, trainer.newest
    if val is None or newest is None:
        return
    found = newest.evaluation
    ours = (
        f"{found.bits_per_byte:.3f} bits per byte (loss {found.loss:.3f}, perplexity {found.perplexity:.1f})"
    )
    reporter.say(f"validation: {ours}")
    if val.num_bytes <= XZ_LIMIT_BYTES:
        separator = tokenizer.special_token_ids.get(trainer.config.data.document_separator, -1)
        text = tokenizer.decode_bytes(val.tokens[val.tokens != separator])
        reporter.say(f"xz -9e on the same text: {xz_bits_per_byte(text):.3f} bits per byte")


def write_samples(trainer: Trainer, tokenizer: Tokenizer, logger: Logger) -> None:
    """Continue the prompts of [generation], log the texts and keep them in the run's folder."""
    from transformerlm.infer import complete, completion_values
    from transformerlm.logging import MetricsFile

    config, run, generation = trainer.config, trainer.run, trainer.config.generation
    with trainer.runtime.autocast():
        completions = complete(trainer.model, tokenizer, generation, seed=config.runtime.seed)
    run.samples.unlink(missing_ok=True)
    with MetricsFile(run.samples) as samples:
        for completion in completions:
            values = completion_values(completion, generation)
            logger.log(values, trainer.step)
            samples.log(values, trainer.step)


if __name__ == "__main__":
    sys.exit(main())
