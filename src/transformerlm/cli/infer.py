"""transformerlm-infer: from a trained run and a prompt to text."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformerlm.cli.command import Command, Mode, Option, run_command
from transformerlm.cli.infer_input import read_prompts
from transformerlm.cli.infer_output import is_live_on_stdout, open_results, start_live_output
from transformerlm.cli.terminal import Terminal
from transformerlm.config import InferConfig
from transformerlm.errors import ConfigError, Key, Problem
from transformerlm.logging.terminal import tell

CHAT_KEYS = ("system_prompt", "chat_template", "chat_template_kwargs")
"""Keys of [infer] that only --chat uses."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(COMMAND, argv)


def settings_of_run(config: InferConfig) -> dict[str, Any]:
    """Return the [generation] of the run that [infer].checkpoint names, as in its own config."""
    path = Path(config.infer.checkpoint).expanduser()
    if not path.is_dir():
        return {}
    # Imported only where there is a run to read: torch takes seconds.
    from transformerlm.checkpoint.own_settings import generation_of_run

    return {"generation": generation_of_run(path)}


def infer(config: InferConfig) -> None:
    """Load the model, continue every prompt, and write every text."""
    from transformerlm.logging import check_backends

    check_no_chat(config)
    check_backends(config.logging)
    prompts = read_prompts(config)
    generation = dataclasses.replace(config.generation, prompts=tuple(prompt.text for prompt in prompts))

    from transformerlm.checkpoint.run_directory import RunDirectory
    from transformerlm.infer import completions, cut_prompts_warning, start
    from transformerlm.language_model import LanguageModel
    from transformerlm.runtime import set_up_process

    set_up_process(config.runtime)
    lm = LanguageModel.load(config.infer.checkpoint, config.runtime, Terminal().say)
    texts = start(lm.tokenizer, generation, config.infer.first_row)
    if warning := cut_prompts_warning(texts, lm.model.config.context_length):
        Terminal().say(f"warning: {warning}")
    with open_results(config, generation, RunDirectory.of(lm.checkpoint)) as write:
        on_text = start_live_output(config, generation)
        written = completions(
            lm.model,
            lm.tokenizer,
            generation,
            texts,
            config.runtime.seed,
            on_text,
            kernels=lm.runtime.kernels,
            ngrams=lm.ngrams,
        )
        for index, completion in enumerate(written):
            if on_text is not None and not is_live_on_stdout(config, generation):
                tell("\n")
            write(completion, prompts[index // generation.num_samples].others)


def interactive(config: InferConfig) -> None:
    """Read prompts at the terminal and show how the model continues each."""
    from transformerlm.cli.interactive import Session
    from transformerlm.language_model import LanguageModel
    from transformerlm.runtime import set_up_process

    check_no_chat(config)
    set_up_process(config.runtime)
    lm = LanguageModel.load(config.infer.checkpoint, config.runtime, Terminal().say)
    Session(lm, config.generation, config.runtime.seed).run()


def chat(config: InferConfig) -> None:
    """Answer in conversations, in the form of the model's chat template: at the terminal, or JSON lines."""
    # Imported only now: torch takes seconds.
    from transformerlm.cli.chat import answer_conversations, chat_at_terminal, is_at_terminal

    chat_at_terminal(config) if is_at_terminal(config) else answer_conversations(config)


def check_no_chat(config: InferConfig) -> None:
    """Check that no key is set that only --chat uses.

    Raises:
        ConfigError: names the keys.
    """
    keys = [key for key in CHAT_KEYS if getattr(config.infer, key)]
    if keys:
        raise ConfigError([Problem(Key("infer", key), "expected --chat with it") for key in keys])


COMMAND = Command(
    InferConfig,
    infer,
    program="transformerlm-infer",
    description="Continue prompts with a trained model; a run's folder is all it needs.",
    options=(
        Option("checkpoint", ("infer.checkpoint",)),
        Option("prompt", ("infer.prompt",), repeated=True),
    ),
    modes=(Mode("interactive", interactive), Mode("chat", chat)),
    defaults=settings_of_run,
)


if __name__ == "__main__":
    sys.exit(main())
