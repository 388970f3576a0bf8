"""transformerlm-eval: from a trained run, or two of them, and text to loss, perplexity and bits per byte."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformerlm.cli.command import run_command
from transformerlm.cli.eval_report import Outcome, Scored, document_lines, record, table
from transformerlm.cli.terminal import Terminal
from transformerlm.config import EvalConfig
from transformerlm.errors import DataError
from transformerlm.schema import to_dict
from transformerlm.storage.files import committed_file

if TYPE_CHECKING:
    from transformerlm.evaluation.text import Text
    from transformerlm.language_model import LanguageModel


def main(argv: Sequence[str] | None = None) -> int:
    """The console command."""
    description = (
        "Loss, perplexity and bits per byte of a trained model on a text, with standard errors by document;\n"
        "with --compare the difference of two models on the same documents."
    )
    shortcuts = {"text": "eval.text", "compare": "eval.compare"}
    return run_command(EvalConfig, evaluate, description=description, shortcuts=shortcuts, argv=argv)


def evaluate(config: EvalConfig) -> None:
    """Score the text with one model, then with the other; say, log and write what came of it."""
    from transformerlm.checkpoint.store import open_checkpoint
    from transformerlm.data.corpus import refuse_overlap
    from transformerlm.evaluation.text import Text

    text = Text.find(config.data, config.eval.text)
    if config.eval.documents_file is not None:
        output = Path(config.eval.documents_file).expanduser()
        refuse_overlap(text.corpora, [output], "[eval].documents_file")
    # Both are looked for before the first is scored, which may take long: a wrong path is told at once.
    paths = [path for path in (config.eval.checkpoint, config.eval.compare) if path is not None]
    checkpoints = [open_checkpoint(Path(path).expanduser(), Terminal().say) for path in paths]
    outcome = compared(str(text), *(score_with(checkpoint.path, text, config) for checkpoint in checkpoints))
    for line in table(outcome):
        Terminal().say(line)
    log(outcome, config)


def score_with(path: Path, text: Text, config: EvalConfig) -> Scored:
    """Load a model and score the text with it; it is gone when the scores come back."""
    from transformerlm.evaluation.documents import end_of_text_id, load_for_scoring, score
    from transformerlm.runtime import prepare_process

    reporter = Terminal()
    prepare_process(config.runtime)
    lm = load_for_scoring(path, config.runtime, reporter.say)
    eos_id = end_of_text_id(lm, config.eval)
    introduce(lm, eos_id, reporter)
    scores = score(lm, text, config.eval, reporter)
    return Scored(lm.checkpoint, (lm.tokenizer.fingerprint, eos_id), scores)


def introduce(lm: LanguageModel, eos_id: int | None, reporter: Terminal) -> None:
    """Say what is about to be evaluated."""
    from transformerlm.nn import num_parameters

    parameters = num_parameters(lm.model.config)
    reporter.say(f"{lm.checkpoint.path}: {parameters:,} parameters, on {lm.runtime}")
    if eos_id is None:
        what = "no end-of-text token ([eval].eos_token would name one)"
        then = "the first token of a document is context only, and its end is not predicted"
        reporter.say(f"{lm.checkpoint.path}: {what}: {then}")


def compared(text: str, first: Scored, second: Scored | None = None) -> Outcome:
    """Both with their difference.

    Raises:
        DataError: the second has not seen the same documents.
    """
    if second is None:
        return Outcome(text, first, None, None)
    from transformerlm.evaluation.statistics import difference

    if first.scores.num_bytes.tolist() != second.scores.num_bytes.tolist():
        raise DataError(f"{text}: has changed while it was being read; start again")
    found = difference(first.scores, second.scores, same_tokens=first.tokens == second.tokens)
    return Outcome(text, first, second, found)


def log(outcome: Outcome, config: EvalConfig) -> None:
    """One record; and each document's numbers in a file, which wandb gets where it is to have outputs."""
    from transformerlm.checkpoint.run_directory import RunDirectory
    from transformerlm.logging import make_logger, resolved_run_name

    run_dir = RunDirectory.of(outcome.first.checkpoint).path
    dataset = config.logging.dataset or outcome.text
    logging = dataclasses.replace(config.logging, dataset=dataset)
    with make_logger(logging, config.wandb, run_dir, resolved_run_name(logging)) as logger:
        logger.log_config(to_dict(config))
        logger.log(record(outcome))
        if config.eval.documents_file is not None:
            output = Path(config.eval.documents_file).expanduser()
            with committed_file(output) as file:
                file.writelines(line.encode() for line in document_lines(outcome))
            logger.log_artifact(output, f"documents-{run_dir.name}", "outputs")


if __name__ == "__main__":
    sys.exit(main())
