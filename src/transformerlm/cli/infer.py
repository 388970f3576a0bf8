"""transformerlm-infer: from a trained run and a prompt to text."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformerlm.cli.common import run_command
from transformerlm.cli.terminal import Terminal
from transformerlm.config import InferConfig, InferSection
from transformerlm.errors import ConfigError
from transformerlm.logging.terminal import tell
from transformerlm.schema import to_dict

if TYPE_CHECKING:
    from transformerlm.infer import Completion, OnText
    from transformerlm.rundir import RunDirectory


def main(argv: Sequence[str] | None = None) -> int:
    """The console command."""
    description = "Continue prompts with a trained model; a run's folder is all it needs."
    shortcuts = {"prompt": "infer.prompt"}
    return run_command(InferConfig, infer, description=description, shortcuts=shortcuts, argv=argv)


def infer(config: InferConfig) -> None:
    """Load the model, continue every prompt, log every text."""
    generation = dataclasses.replace(config.generation, prompts=read_prompts(config))

    from transformerlm.infer import complete
    from transformerlm.language_model import LanguageModel
    from transformerlm.rundir import RunDirectory

    lm = LanguageModel.load(config.infer.checkpoint, config.runtime, Terminal().say)
    on_text = echo(generation.prompts) if config.infer.stream else None
    completions = complete(lm.model, lm.tokenizer, generation, seed=config.runtime.seed, on_text=on_text)
    if on_text:
        tell("\n")
    log_completions(completions, config, RunDirectory.of(lm.checkpoint))


def log_completions(completions: Sequence[Completion], config: InferConfig, run: RunDirectory) -> None:
    """One record a text; wandb also gets them as a file, where [wandb].log_artifacts asks for it."""
    from transformerlm.infer import completion_values
    from transformerlm.logging import CombinedLogger, MetricsFile, make_logger, resolved_run_name

    run_name = resolved_run_name(config.logging)
    logging = dataclasses.replace(config.logging, dataset=config.logging.dataset or run.path.name)
    loggers = [make_logger(logging, config.wandb, run.path, run_name)]
    outputs = run.path / "outputs" / f"{run_name}.jsonl"
    is_kept = logging.backend == "wandb" and config.wandb.log_artifacts
    if is_kept:
        loggers.append(MetricsFile(outputs))
    with CombinedLogger(loggers) as logger:
        logger.log_config(to_dict(config))
        for completion in completions:
            logger.log(completion_values(completion, config.generation))
        if is_kept:
            logger.log_artifact(outputs, f"outputs-{run.path.name}", "outputs")


def read_prompts(config: InferConfig) -> tuple[str, ...]:
    """The texts to continue: --prompt, else the lines of [infer].prompt_file, else [generation].prompts.

    Raises:
        ConfigError: where there is none, or the file cannot be read.
    """
    source: InferSection = config.infer
    if source.prompt is not None:
        return (source.prompt,)
    if source.prompt_file is None:
        prompts = config.generation.prompts
    else:
        prompts = tuple(line for line in _lines(source.prompt_file) if line)
    if not prompts:
        key = "[generation].prompts" if source.prompt_file is None else "[infer].prompt_file"
        raise ConfigError(f"{key}: expected a prompt, got none")
    return prompts


def _lines(path: str) -> list[str]:
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).expanduser().read_bytes()
        # Not str.splitlines, which takes a form feed and others for the end of a line too.
        return data.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except OSError as error:
        raise ConfigError(
            f"[infer].prompt_file: expected a file of prompts, got {path}: {error.strerror}"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"[infer].prompt_file: expected UTF-8, got another byte in {path} at {error.start}"
        ) from None


def echo(prompts: Sequence[str]) -> OnText | None:
    """Show a text on the terminal as it grows; None where stderr is none, or the texts are several."""
    if len(prompts) > 1 or not sys.stderr.isatty():
        return None
    tell(prompts[0])
    return lambda index, text: tell(text)


if __name__ == "__main__":
    sys.exit(main())
