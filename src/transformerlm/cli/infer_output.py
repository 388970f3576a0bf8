"""Results of transformerlm-infer: to stdout, a file or wandb, as text to read or as JSON lines.

Unlike a metric of training, a result that cannot be written is an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformerlm.cli.standard_streams import print_text
from transformerlm.config import GenerationConfig, InferConfig
from transformerlm.logging import names
from transformerlm.logging.jsonl import to_line
from transformerlm.logging.terminal import tell
from transformerlm.schema import to_dict
from transformerlm.storage.files import committed_file

if TYPE_CHECKING:
    from transformerlm.checkpoint.run_directory import RunDirectory
    from transformerlm.infer import Completion, OnText

Write = Callable[["Completion", Mapping[str, Any]], object]
"""Function that writes a completion; its second argument are the other keys of the prompt."""


@contextlib.contextmanager
def open_results(config: InferConfig, generation: GenerationConfig, run: RunDirectory) -> Iterator[Write]:
    """Open the outputs; yield the function that takes each completion, in order, once it is finished."""
    with contextlib.ExitStack() as stack:
        writes: list[Write] = []
        if "wandb" in config.logging.backends:
            writes.append(stack.enter_context(_wandb(config, generation, run)))
        if config.infer.output_file is not None:
            path = Path(config.infer.output_file).expanduser()
            file = stack.enter_context(committed_file(path))
            writes.append(_writer(config, generation, lambda text: file.write(text.encode())))
        elif "console" in config.logging.backends:
            writes.append(_writer(config, generation, print_text))

        def write_all(completion: Completion, others: Mapping[str, Any]) -> None:
            for write in writes:
                write(completion, others)

        yield write_all


def start_live_output(config: InferConfig, generation: GenerationConfig) -> OnText | None:
    """Start to show a single text while it is written; return the callback that takes its pieces.

    Pieces go to stdout if the result does, else to stderr if that is a terminal. Returns None otherwise, and
    if there are several texts.
    """
    is_one = len(generation.prompts) * generation.num_samples == 1
    if not (config.infer.stream and is_one):
        return None
    if is_live_on_stdout(config, generation):
        put: Callable[[str], None] = print_text
    elif sys.stderr.isatty():
        put = tell
    else:
        return None
    put(generation.prompts[0])
    return lambda index, piece: put(piece)


def is_live_on_stdout(config: InferConfig, generation: GenerationConfig) -> bool:
    """Return True if stdout gets a single text piece by piece."""
    is_one = len(generation.prompts) * generation.num_samples == 1
    is_stdout = config.infer.output_file is None and "console" in config.logging.backends
    return config.infer.stream and is_one and is_stdout and is_readable(config)


def is_readable(config: InferConfig) -> bool:
    """Return True if results are written as text to read, False if as JSON lines."""
    if config.infer.output_format != "auto":
        return config.infer.output_format == "text"
    is_terminal = config.infer.output_file is None and sys.stdout.isatty()
    return is_terminal and not config.generation.log_probs


def _writer(config: InferConfig, generation: GenerationConfig, put: Callable[[str], object]) -> Write:
    if not is_readable(config):
        seed = config.runtime.seed
        return lambda completion, others: put(json_line(completion, generation, seed, others))
    if is_live_on_stdout(config, generation):
        return lambda completion, others: put("\n")
    num_texts = len(generation.prompts) * generation.num_samples
    numbers = itertools.count(1)
    return lambda completion, others: put(readable(completion, next(numbers), num_texts))


def readable(completion: Completion, number: int, num_texts: int) -> str:
    """Return a prompt with its continuation, below a line with its number if there are several."""
    heading = f"--- {number} of {num_texts} ---\n" if num_texts > 1 else ""
    return f"{heading}{completion.prompt}{completion.text}\n"


def json_line(
    completion: Completion, generation: GenerationConfig, seed: int, others: Mapping[str, Any]
) -> str:
    """Return a result as a line of JSON: the other keys of its prompt, then those of `logging.names`.

    A key of the prompt that the result has too, as those of an earlier result, begins with "input." in it.
    """
    from transformerlm.infer import completion_values

    record: dict[str, Any] = {
        **completion_values(completion, generation),
        names.SEED: seed,
        names.ROW: completion.row,
        names.SAMPLE: completion.sample,
        names.FINISH_REASON: completion.finish_reason,
        names.PROMPT_TOKENS_CUT: completion.num_cut_tokens,
    }
    if completion.log_probs is not None:
        record |= {names.TOKEN_IDS: completion.token_ids, names.LOG_PROBS: completion.log_probs}
    return to_line(_renamed(others, record) | record) + "\n"


def _renamed(others: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return `others` with "input." before keys that are in `record`, repeated where that is taken too."""
    renamed: dict[str, Any] = {}
    taken = {*record, *others}
    for key, value in others.items():
        name = key
        while key in record and name in taken:
            name = f"input.{name}"
        taken.add(name)
        renamed[name] = value
    return renamed


@contextlib.contextmanager
def _wandb(config: InferConfig, generation: GenerationConfig, run: RunDirectory) -> Iterator[Write]:
    """Log one record per text, and the file of all texts if [wandb].log_artifacts is set."""
    from transformerlm.infer import completion_values
    from transformerlm.logging import (
        CombinedLogger,
        Logger,
        MetricsFile,
        NullLogger,
        WandbLogger,
        resolved_run_name,
    )

    run_name = resolved_run_name(config.logging)
    logging = dataclasses.replace(config.logging, dataset=config.logging.dataset or run.path.name)
    fallback = NullLogger() if "console" in logging.backends else None
    loggers: list[Logger] = [WandbLogger(config.wandb, logging, run.path, run_name, fallback)]
    outputs = run.path / "outputs" / f"{run_name}.jsonl"
    if config.wandb.log_artifacts:
        loggers.append(MetricsFile(outputs))
    with CombinedLogger(loggers) as logger:
        logger.log_config(to_dict(config))
        yield lambda completion, others: logger.log(completion_values(completion, generation))
        if config.wandb.log_artifacts:
            logger.log_artifact(outputs, f"outputs-{run.path.name}", "outputs")
