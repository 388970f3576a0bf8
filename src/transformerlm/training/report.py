"""Messages of a run in addition to its metrics: its start, its final quality, and samples of text."""

from __future__ import annotations

import json

from transformerlm.config import TrainConfig
from transformerlm.data import TokenFile
from transformerlm.evaluation.loss import xz_bits_per_byte
from transformerlm.infer import complete, completion_values
from transformerlm.logging import Logger, MetricsFile, names
from transformerlm.nn import TransformerLM, num_parameters
from transformerlm.progress import Reporter
from transformerlm.tokenizer import Tokenizer
from transformerlm.training.trainer import Trainer

XZ_LIMIT_BYTES = 16_000_000
"""Size limit of texts that are compressed for comparison: xz takes about a second per megabyte."""
XZ_MIN_BYTES = 10_000
"""Size of a validation text from which the comparison means something: xz adds 60 bytes of its own."""


def report_start(trainer: Trainer, reporter: Reporter) -> None:
    """Report the model, its device, the budget and the data."""
    budget, train_tokens = trainer.budget, trainer.data.train.num_tokens
    places = f"{trainer.ranks.size} x " if trainer.ranks.size > 1 else ""
    reporter.say(f"model: {num_parameters(trainer.config.model):,} parameters, on {places}{trainer.runtime}")
    steps = trainer.config.training.steps_in_budget(trainer.config.model.context_length)
    passes = f"{steps * budget.tokens_per_step / train_tokens:.2f} passes over" if steps else "on"
    reporter.say(f"training: {budget}, {passes} {train_tokens:,} tokens, into {trainer.run.path}")
    if trainer.step:
        reporter.say(f"resumed: {trainer.run.path}, {budget.done(trainer.step)}")


def report_steps_in_time(config: TrainConfig, step: int, reporter: Reporter) -> None:
    """Report the number of steps that a budget in time allowed."""
    if config.training.max_time is not None:
        short = ", all of them in the warm-up" if step <= config.schedule.warmup_steps else ""
        reporter.say(f"trained: {step} steps in {config.training.max_time}{short}")


def report_skipped_steps(trainer: Trainer, reporter: Reporter) -> None:
    """Report the number of steps that were not taken, if there are any."""
    if number := trainer.step_guard.num_skipped:
        reporter.say(f"skipped: {number} of {trainer.step} steps: not finite, or spikes")


def compare_with_xz(trainer: Trainer, tokenizer: Tokenizer, reporter: Reporter) -> None:
    """Report the model's bits per byte on the validation text, and those of a good compressor."""
    train, val, newest = trainer.data.train, trainer.data.val, trainer.newest
    if val is None or newest is None:
        return
    found = newest.evaluation
    numbers = f"loss {found.loss:.3f}, perplexity {found.perplexity:.1f}"
    reporter.say(f"validation: {found.bits_per_byte:.3f} bits per byte ({numbers})")
    if not XZ_MIN_BYTES <= val.num_bytes <= XZ_LIMIT_BYTES:
        return
    separator = tokenizer.special_token_ids.get(trainer.config.data.document_separator, -1)

    def text(file: TokenFile) -> bytes:
        return tokenizer.decode_bytes(file.tokens[file.tokens != separator])

    reads_train = train.num_bytes + val.num_bytes <= XZ_LIMIT_BYTES
    total = 2 * (train.num_bytes + val.num_bytes) if reads_train else val.num_bytes
    with reporter.bar(total, "B", "comparing with xz") as bar:
        alone = xz_bits_per_byte(text(val), progress=bar.update)
        line = f"xz -9e on the same text: {alone:.3f} bits per byte"
        if reads_train:
            after = xz_bits_per_byte(text(val), after=text(train), progress=bar.update)
            line += f"; {after:.3f} when it has read the training text"
    reporter.say(line)


def report_nothing_to_do(trainer: Trainer, reporter: Reporter) -> None:
    """Report that a run is complete, and what would continue it."""
    training = trainer.config.training
    budget = next((name for name in ("max_tokens", "max_time") if getattr(training, name)), "max_steps")
    done = f"{trainer.run.path}, {trainer.budget.done(trainer.step)}"
    reporter.say(f"resumed: {done}: nothing is left to do; a larger [training].{budget} trains on")


def is_complete_in_folder(trainer: Trainer) -> bool:
    """Return True if all steps are done, and their validation and samples are in the run's folder."""
    is_validated = trainer.data.val is None or (trainer.newest and trainer.newest.step == trainer.step)
    return bool(trainer.budget.is_spent(trainer.step) and is_validated and _samples_are_written(trainer))


def _samples_are_written(trainer: Trainer) -> bool:
    generation = trainer.config.generation
    expected = [(trainer.step, text) for text in generation.prompts for _ in range(generation.num_samples)]
    try:
        records = [json.loads(line) for line in trainer.run.samples.read_bytes().splitlines()]
        return [(record["step"], record[names.PROMPT]) for record in records] == expected
    except (OSError, ValueError, LookupError, TypeError):  # missing, or cut by a kill
        return False


def write_samples(trainer: Trainer, model: TransformerLM, tokenizer: Tokenizer, logger: Logger) -> None:
    """Continue the prompts of [generation], log the texts and keep them in the run's folder."""
    config, run, generation = trainer.config, trainer.run, trainer.config.generation
    with trainer.runtime.autocast():
        completions = complete(model, tokenizer, generation, seed=config.runtime.seed)
    run.samples.unlink(missing_ok=True)
    with MetricsFile(run.samples) as samples:
        for completion in completions:
            values = completion_values(completion, generation)
            logger.log(values, trainer.step)
            samples.log(values, trainer.step)
