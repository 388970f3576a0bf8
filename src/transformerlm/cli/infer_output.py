"""Where transformerlm-infer has its results go: stdout, a file or wandb, to be read or as JSON lines.

A result that cannot be written is an error, other than a metric of training.
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
"""Takes a completion, and what came with its prompt."""


@contextlib.contextmanager
def opened_results(config: InferConfig, generation: GenerationConfig, run: RunDirectory) -> Iterator[Write]:
    """Where to hand each completion, in order, as soon as it is finished."""
    with contextlib.ExitStack() as stack:
        writes: list[Write] = []
        if config.logging.backend == "wandb":
            writes.append(stack.enter_context(_wandb(config, generation, run)))
        if config.infer.output_file is not None:
            path = Path(config.infer.output_file).expanduser()
            file = stack.enter_context(committed_file(path))
            writes.append(_writer(config, generation, lambda text: file.write(text.encode())))
        elif config.logging.backend == "console":
            writes.append(_writer(config, generation, print_text))

        def write_all(completion: Completion, others: Mapping[str, Any]) -> None:
            for write in writes:
                write(completion, others)

        yield write_all


def live(config: InferConfig, generation: GenerationConfig) -> OnText | None:
    """Begin to show a text as it is written: on stdout where it is the result, else on a terminal's stderr.

    None where the texts are several, or nobody looks.
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
    """Whether stdout gets a single text piece by piece."""
    is_one = len(generation.prompts) * generation.num_samples == 1
    is_stdout = config.infer.output_file is None and config.logging.backend == "console"
    return config.infer.stream and is_one and is_stdout and is_readable(config)


def is_readable(config: InferConfig) -> bool:
    """Whether results are written as text to be read; else as JSON lines."""
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
    """A prompt with what follows it, under a line with its number where there are others."""
    heading = f"--- {number} of {num_texts} ---\n" if num_texts > 1 else ""
    return f"{heading}{completion.prompt}{completion.text}\n"


def json_line(
    completion: Completion, generation: GenerationConfig, seed: int, others: Mapping[str, Any]
) -> str:
    """A result as one line of JSON: what came with its prompt, what a logger records, and how it ended."""
    from transformerlm.infer import completion_values

    record: dict[str, Any] = {
        **others,
        **completion_values(completion, generation),
        names.SEED: seed,
        names.ROW: completion.row,
        names.SAMPLE: completion.sample,
        names.FINISH_REASON: completion.finish_reason,
    }
    if completion.log_probs is not None:
        record |= {names.TOKEN_IDS: completion.token_ids, names.LOG_PROBS: completion.log_probs}
    return to_line(record) + "\n"


@contextlib.contextmanager
def _wandb(config: InferConfig, generation: GenerationConfig, run: RunDirectory) -> Iterator[Write]:
    """One record a text; the file of them too, where [wandb].log_artifacts asks for it."""
    from transformerlm.infer import completion_values
    from transformerlm.logging import CombinedLogger, MetricsFile, make_logger, resolved_run_name

    run_name = resolved_run_name(config.logging)
    logging = dataclasses.replace(config.logging, dataset=config.logging.dataset or run.path.name)
    loggers = [make_logger(logging, config.wandb, run.path, run_name)]
    outputs = run.path / "outputs" / f"{run_name}.jsonl"
    if config.wandb.log_artifacts:
        loggers.append(MetricsFile(outputs))
    with CombinedLogger(loggers) as logger:
        logger.log_config(to_dict(config))
        yield lambda completion, others: logger.log(completion_values(completion, generation))
        if config.wandb.log_artifacts:
            logger.log_artifact(outputs, f"outputs-{run.path.name}", "outputs")
