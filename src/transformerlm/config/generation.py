"""[generation] and [infer]: sampling, prompts, and output of generated text.

Where text is generated with a finished run, keys of [generation] that are not set are as in the run's own
config; the defaults here are for keys that it does not set either.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from transformerlm.errors import Key, Problem
from transformerlm.schema import (
    FilePath,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
    Text,
)
from transformerlm.schema.values import show

NOTHING_TO_START_FROM = (
    'expected some text, got "": without a bos_token, an eos_token or a start there is nothing to start from'
)

AUTO_START = "auto"
"""Value of [generation].start that a run replaces when it knows its text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationConfig(Section):
    """[generation]: prompts, the end of a text, and the sampling of each token. In transformerlm-infer, what
    is not set is as in the run's own config."""

    prompts: tuple[str, ...] = ("",)
    """Texts to continue; "" starts from the bos_token alone, or else as `start` says."""
    start: str = "auto"
    """Text that an empty prompt starts from, which is not shown. "": none, but the eos_token. "auto": a line
    break for a model that was trained on few documents, since it has hardly seen an eos_token, else none."""
    max_new_tokens: PositiveInt = 128
    """Maximum number of tokens to write."""
    temperature: NonNegativeFloat = 0.8
    """Divisor of the logits; 0 takes the likeliest token (greedy)."""
    top_p: Probability = 0.95
    """Sample from the smallest set of tokens with this total probability (nucleus sampling)."""
    top_k: PositiveInt | None = None
    """Sample from this many of the likeliest tokens. None: from all."""
    min_p: Fraction = 0.0
    """Sample from the tokens at least this fraction as likely as the likeliest. 0: from all."""
    repetition_penalty: PositiveFloat = 1.0
    """Makes tokens that already occur in prompt or text less likely: positive logits are divided by this,
    negative ones multiplied. 1: no penalty."""
    bos_token: str = ""
    """Special token put before each prompt. "": none."""
    eos_token: str = "<|endoftext|>"
    """Special token that ends a text. "": none."""
    stop_tokens: tuple[Text, ...] = ()
    """Other special tokens that end a text."""
    stop: tuple[str, ...] = ()
    """Strings that end a text; it is cut before the first of them. Those in the prompt do not count."""
    num_samples: PositiveInt = 1
    """Number of texts to write for each prompt."""
    skip_special_tokens: bool = False
    """Leave special tokens that the model writes out of the text; those that end it are never part of it."""
    log_probs: bool = False
    """Record the log-probability of each token in nats, before penalty, temperature and filters."""

    @property
    def start_text(self) -> str:
        """`start`, where "auto" has not been replaced: none."""
        return "" if self.start == AUTO_START else self.start

    def conflicts(self) -> Iterator[Problem]:
        """Yield an empty stop string."""
        if "" in self.stop:
            yield Problem(Key("stop"), f"expected strings of at least one character, got {list(self.stop)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class InferSection(Section):
    """[infer]: which model, where prompts come from, where results go."""

    checkpoint: FilePath = "runs/python-stdlib"
    """Folder of a run, which stands for its newest valid checkpoint or, if it has ended, for its best one; or
    of one checkpoint."""
    prompt: str | tuple[str, ...] | None = None
    """A text to continue, or a list of texts; overrides [generation].prompts."""
    prompt_file: FilePath | None = None
    """A file of prompts, "-" for stdin; overrides [generation].prompts."""
    prompt_format: Literal["auto", "lines", "jsonl", "whole"] = "auto"
    """Format of prompt_file. "lines": one prompt per line. "jsonl": per line a JSON string, or an object with
    a "prompt", whose other keys are copied to the result, KEY as "input.KEY" if the result has a KEY itself.
    "whole": one prompt, line breaks included. "auto": "jsonl" if the name ends in .jsonl or .ndjson, else
    "lines"."""
    output_format: Literal["auto", "text", "jsonl"] = "auto"
    """"text": each prompt with its continuation, for reading. "jsonl": one JSON object per line. "auto":
    "text" on a terminal, "jsonl" anywhere else and with [generation].log_probs."""
    output_file: FilePath | None = None
    """File for the results, written completely at the end or not at all. None: stdout."""
    first_row: NonNegativeInt = 0
    """Row of the first text; the others follow. Each row of a seed has its own random stream: with the
    "text.row" of a result given here, that text can be written again alone."""
    stream: bool = True
    """Show a single text on the terminal while it is written (on stderr if the result is JSON)."""
    system_prompt: str = ""
    """With --chat: first message of each conversation that has no system message of its own. "": none."""
    chat_template: Text | None = None
    """With --chat: name of the template, of a tokenizer that has several. None: "tool_use" for a conversation
    with tools, else "default"."""
    chat_template_kwargs: str = ""
    """With --chat: further variables of the template, as a JSON object such as {"enable_thinking": false}."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield a second source of prompts, and variables that are no JSON object."""
        if self.prompt is not None and self.prompt_file is not None:
            yield Problem(Key("prompt_file"), "expected nothing beside a prompt")
        if self.chat_template_kwargs and self.template_variables() is None:
            what = f"expected a JSON object, got {show(self.chat_template_kwargs)}"
            yield Problem(Key("chat_template_kwargs"), what)

    def template_variables(self) -> dict[str, Any] | None:
        """Return chat_template_kwargs; None if it is no JSON object."""
        try:
            found = json.loads(self.chat_template_kwargs or "{}")
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None
