"""transformerlm-infer --chat: conversations to answers, at the terminal or from a file."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformerlm.cli.chat_input import Asked, read_conversations
from transformerlm.cli.infer_input import MAX_PROBLEMS
from transformerlm.cli.infer_output import is_live_on_stdout, is_readable, open_results, start_live_output
from transformerlm.cli.terminal import Terminal
from transformerlm.config import InferConfig
from transformerlm.errors import ConfigError
from transformerlm.logging.terminal import tell

if TYPE_CHECKING:
    from transformerlm.infer.chat import ChatFormat
    from transformerlm.infer.completion import EncodedPrompt


def is_at_terminal(config: InferConfig) -> bool:
    """Return True if a person is to type the messages: there is no prompt, no file, and nothing piped in."""
    return config.infer.prompt is None and config.infer.prompt_file is None and sys.stdin.isatty()


def answer_conversations(config: InferConfig) -> None:
    """Load the model, answer every conversation, and write every answer."""
    from transformerlm.checkpoint.run_directory import RunDirectory
    from transformerlm.infer import completions, cut_prompts_warning
    from transformerlm.infer.chat import ChatFormat
    from transformerlm.infer.completion import start_encoded
    from transformerlm.language_model import LanguageModel
    from transformerlm.logging import check_backends
    from transformerlm.runtime import set_up_process

    check_backends(config.logging)
    asked = read_conversations(config)
    set_up_process(config.runtime)
    lm = LanguageModel.load(config.infer.checkpoint, config.runtime, Terminal().say)
    chat = ChatFormat(lm.tokenizer, config.infer.chat_template)
    prompts = encoded(chat, asked)
    # A conversation is not shown again before its answer.
    shown = dataclasses.replace(config.generation, prompts=("",) * len(prompts))
    generation = chat.settings(shown)
    texts = start_encoded(lm.tokenizer, generation, prompts, config.infer.first_row)
    if warning := cut_prompts_warning(texts, lm.model.config.context_length):
        Terminal().say(f"warning: {warning}")
    with open_results(config, generation, RunDirectory.of(lm.checkpoint)) as write:
        on_text = start_live_output(config, generation)
        seed, kernels = config.runtime.seed, lm.runtime.kernels
        written = completions(lm.model, lm.tokenizer, generation, texts, seed, on_text, kernels=kernels)
        records = itertools.chain.from_iterable([one.record] * generation.num_samples for one in asked)
        for completion, record in zip(written, records, strict=True):
            if on_text is not None and not is_live_on_stdout(config, generation):
                tell("\n")
            write(dataclasses.replace(completion, prompt="") if is_readable(config) else completion, record)


def encoded(chat: ChatFormat, asked: Sequence[Asked]) -> list[EncodedPrompt]:
    """Encode all conversations.

    Raises:
        ConfigError: one line for each that the template refuses.
    """
    prompts: list[EncodedPrompt] = []
    problems: list[str] = []
    for number, one in enumerate(asked, 1):
        try:
            prompts.append(chat.encode(one.conversation))
        except ConfigError as error:
            problems.append(f"conversation {number} of {len(asked)}: {error}")
    if problems:
        raise ConfigError(problems[:MAX_PROBLEMS])
    return prompts


def chat_at_terminal(config: InferConfig) -> None:
    """Load the model, and answer what is typed."""
    from transformerlm.cli.chat_session import ChatSession
    from transformerlm.infer.chat import ChatFormat
    from transformerlm.language_model import LanguageModel
    from transformerlm.runtime import set_up_process

    set_up_process(config.runtime)
    lm = LanguageModel.load(config.infer.checkpoint, config.runtime, Terminal().say)
    chat = ChatFormat(lm.tokenizer, config.infer.chat_template)
    ChatSession(lm, chat, config).run()
