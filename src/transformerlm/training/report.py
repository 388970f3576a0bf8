"""Messages of a run in addition to its metrics: its start, its end, and its final quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformerlm.checkpoint.load_state import load_model_state
from transformerlm.checkpoint.run_directory import environment
from transformerlm.checkpoint.store import checkpoint_name, read_checkpoint
from transformerlm.config import TrainConfig
from transformerlm.errors import CheckpointError, one_line
from transformerlm.evaluation.loss import MeanLoss, Validation
from transformerlm.evaluation.xz import XzBaseline
from transformerlm.limits import processor_name
from transformerlm.ngrams import NgramMemory
from transformerlm.nn import TransformerLM, num_parameters
from transformerlm.progress import Reporter, counted
from transformerlm.recipe import Choice, choice_rows, warnings
from transformerlm.runtime import Runtime
from transformerlm.training.expectation import Expectation
from transformerlm.training.samples import has_result
from transformerlm.training.shares import describe_shares, mixture_facts
from transformerlm.training.timers import duration
from transformerlm.training.trainer import Trainer


def report_choice(choice: Choice, runtime: Runtime, reporter: Reporter, *, with_pace: bool = True) -> None:
    """Report what was chosen for "auto", and what is expected of it; `with_pace` as for `choice_rows`."""
    for topic, what, value in choice_rows(choice, runtime, with_pace=with_pace):
        reporter.say(f"{topic:<10}{what:<16}{value}")
    for warning in warnings(choice):
        reporter.say(warning)


def report_expectation(found: Validation | None, run_dir: Path, reporter: Reporter) -> None:
    """Report what was expected of the run, where something was, and what it came to."""
    expected = Expectation.read(run_dir)
    if expected and found:
        got = found.evaluation.bits_per_byte
        where = "within" if got in expected else "outside"
        reporter.say(f"expected: {expected}; got {got:.3f}, {where} that range")


def report_start(trainer: Trainer, reporter: Reporter) -> None:
    """Report the model, its device, the budget and the data."""
    budget, data = trainer.budget, trainer.data
    places = f"{trainer.ranks.size} x " if trainer.ranks.size > 1 else ""
    reporter.say(f"model: {num_parameters(trainer.config.model):,} parameters, on {places}{trainer.runtime}")
    steps = trainer.config.training.steps_in_budget(trainer.config.model.context_length)
    passes = f"{steps * budget.tokens_per_step / data.pass_tokens:.2f} passes over" if steps else "on"
    reporter.say(f"training: {budget}, {passes} {data.train.num_tokens:,} tokens, into {trainer.run.path}")
    if data.shares:
        tokens = steps * budget.tokens_per_step if steps else None
        reporter.say(f"mixture: {describe_shares(data, tokens)}")
    if trainer.step:
        reporter.say(f"resumed: {trainer.run.path}, {budget.done(trainer.step)}")


def report_end(trainer: Trainer, reporter: Reporter) -> None:
    """Report the number of steps that a time allowed, and what has ended the run before its budget."""
    training, step, budget = trainer.config.training, trainer.step, trainer.budget
    ended_by = budget.ended_by(step)
    if training.max_time is not None:
        taken = duration(trainer.clock.elapsed)
        in_time = training.max_time if ended_by == "budget" else f"{taken} of {training.max_time}"
        reporter.say(f"trained: {counted(step, 'step')} in {in_time}")
    if ended_by == "passes":
        passes = step * budget.tokens_per_step / trainer.data.pass_tokens
        reporter.say(f"the text is used up: {passes:.3g} passes; more time would not help, more text would")
    if ended_by == "anneal" and budget.anneal:
        best = f"; the best validation is that of step {trainer.best.step}" if trainer.best else ""
        reporter.say(f"ended early: the learning rate fell from step {budget.anneal.step} to {step}{best}")


def report_skipped_steps(trainer: Trainer, reporter: Reporter) -> None:
    """Report the number of steps that were not taken, if there are any."""
    if number := trainer.step_guard.num_skipped:
        reporter.say(f"skipped: {number} of {trainer.step} steps: not finite, or spikes")


def report_quality(
    trainer: Trainer, found: Validation | None, xz: XzBaseline | None, reporter: Reporter
) -> None:
    """Report bits per byte on the validation text, and those of a good compressor.

    Args:
        found: the validation of the weights that the run ends with, its best ones.
        xz: the compressor's.
    """
    last = trainer.newest
    if found is None or last is None:
        return
    if found.step != last.step:
        what = f"step {found.step} is the best: the last one, {last.step}"
        reporter.say(f"{what}, has {last.evaluation.bits_per_byte:.3f} bits per byte on the validation text")
    numbers = f"loss {found.evaluation.loss:.3f}, perplexity {found.evaluation.perplexity:.1f}"
    reporter.say(f"validation: {found.evaluation.bits_per_byte:.3f} bits per byte ({numbers})")
    if xz is not None:
        reporter.say(str(xz))


def report_memory(found: MeanLoss, ngrams: NgramMemory, reporter: Reporter) -> None:
    """Report bits per byte on the validation text with the memory of n-grams."""
    tokens = len(ngrams.index.tokens)
    what = f"what followed the same n-grams in {tokens:,} training tokens, and earlier in the text"
    reporter.say(f"with the memory of n-grams: {found.bits_per_byte:.3f} bits per byte ({what})")


def report_nothing_to_do(trainer: Trainer, reporter: Reporter) -> None:
    """Report that a run is complete, and what would continue it."""
    training = trainer.config.training
    budget = next((name for name in ("max_tokens", "max_time") if getattr(training, name)), "max_steps")
    if trainer.budget.ended_by(trainer.step) == "passes":
        budget = "max_passes"
    done = f"{trainer.run.path}, {trainer.budget.done(trainer.step)}"
    reporter.say(f"resumed: {done}: nothing is left to do; a larger [training].{budget} trains on")


def is_complete_in_folder(trainer: Trainer) -> bool:
    """Return True if all steps are done, and their validation and samples are in the run's folder."""
    is_validated = trainer.data.val is None or (trainer.newest and trainer.newest.step == trainer.step)
    return bool(trainer.budget.is_spent(trainer.step) and is_validated and has_result(trainer))


def best_weights(trainer: Trainer, model: TransformerLM) -> Validation | None:
    """Load the best checkpoint of a complete run into `model`, where its last weights are worse.

    Returns:
        The validation of the weights that the model has then.
    """
    found = trainer.chosen
    if found is None or found is trainer.newest:
        return found
    path = trainer.run.checkpoints / checkpoint_name(found.step)
    try:
        load_model_state(model, read_checkpoint(path).model_state(), str(path))
    except CheckpointError as error:
        trainer.reporter.say(f"warning: the best checkpoint is not used: {error}")
        return trainer.newest
    return found


def start_facts(trainer: Trainer, xz: XzBaseline | None) -> dict[str, Any]:
    """Return what the run's history says of a start: model, data, device, versions, the compressor."""
    files = {"train": trainer.data.train, "val": trainer.data.val}
    return {
        "parameters": num_parameters(trainer.config.model),
        "device": str(trainer.runtime),
        "processor": processor_name(),
        "environment": environment(trainer.ranks.size),
        "data": {
            name: {"documents": file.num_documents, "bytes": file.num_bytes, "tokens": file.num_tokens}
            for name, file in files.items()
            if file is not None
        },
        "text": {
            key: value
            for key, value in trainer.data.train.made_from.items()
            if key.startswith(("files of ", "content of "))
        },
        **({"mixture": mixture_facts(trainer.data)} if trainer.data.shares else {}),
        "xz": [xz.alone, xz.after_training_text] if xz else [],
    }


def write_page(config: TrainConfig, run_dir: Path, reporter: Reporter) -> None:
    """Write the run's page if [logging].report; a failure is a warning, since the run itself is done."""
    if not config.logging.report:
        return
    from transformerlm.report import write_report

    path = run_dir / "report.html"
    try:
        write_report([run_dir], path)
    except Exception as error:  # of any kind: nothing may change the outcome of the run
        reporter.say(one_line(f"warning: {path}: not written: {error}"))
