"""transformerlm-eval: from one or two trained models and text to loss, perplexity and bits per byte."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformerlm.cli.command import Command, Option, run_command
from transformerlm.cli.eval_report import record, table, write_documents
from transformerlm.cli.terminal import Terminal
from transformerlm.config import CorpusConfig, EvalConfig
from transformerlm.schema import to_dict

if TYPE_CHECKING:
    from transformerlm.evaluation.compare import Evaluation


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(COMMAND, argv)


def text_of_run(config: EvalConfig) -> dict[str, Any]:
    """Return the [data] of the run that [eval].checkpoint names, if its own text is to be scored."""
    path = Path(config.eval.checkpoint).expanduser()
    if config.eval.text is not None or not path.is_dir():
        return {}
    # Imported only where there is a run to read: torch takes seconds.
    from transformerlm.checkpoint import own_settings

    own = own_settings.text_of_run(path)
    is_own = config.data.corpus in (CorpusConfig().corpus, own.get("corpus"))
    return {"data": own} if is_own else {}


def evaluate(config: EvalConfig) -> None:
    """Score the text with one model or two; print, log and write the result."""
    from transformerlm.logging import check_backends

    check_backends(config.logging)
    # Imported only now: torch takes seconds.
    from transformerlm.evaluation.compare import evaluate
    from transformerlm.runtime import set_up_process

    set_up_process(config.runtime)
    terminal = Terminal()
    evaluation = evaluate(config, terminal)
    for line in table(evaluation):
        terminal.say(line)
    log(evaluation, config)


def log(evaluation: Evaluation, config: EvalConfig) -> None:
    """Log one record, write [eval].documents_file, and log that as an artifact."""
    from transformerlm.checkpoint.run_directory import RunDirectory
    from transformerlm.logging import make_logger, resolved_run_name

    run_dir = RunDirectory.of(evaluation.first.checkpoint).path
    logging = dataclasses.replace(config.logging, dataset=config.logging.dataset or evaluation.text)
    with make_logger(logging, config.wandb, run_dir, resolved_run_name(logging)) as logger:
        logger.log_config(to_dict(config))
        logger.log(record(evaluation))
        if config.eval.documents_file is not None:
            path = write_documents(evaluation, Path(config.eval.documents_file).expanduser())
            logger.log_artifact(path, f"documents-{run_dir.name}", "outputs")


COMMAND = Command(
    EvalConfig,
    evaluate,
    program="transformerlm-eval",
    description=(
        "Loss, perplexity and bits per byte of a trained model on a text, with standard errors by document;\n"
        "with --compare the difference of two models on the same documents; with --compare-weights\n"
        "what fewer bits per weight cost."
    ),
    options=(
        Option("checkpoint", ("eval.checkpoint",)),
        Option("text", ("eval.text",)),
        Option("compare", ("eval.compare",)),
        Option("compare-weights", ("eval.compare_weights",)),
    ),
    defaults=text_of_run,
)


if __name__ == "__main__":
    sys.exit(main())
