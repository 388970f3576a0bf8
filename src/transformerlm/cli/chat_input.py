"""Conversations of transformerlm-infer --chat: from arguments, a file or stdin."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformerlm.cli.infer_input import parse_json, parse_lines, read_prompts, read_text
from transformerlm.config import InferConfig, InferSection
from transformerlm.errors import ConfigError, Key
from transformerlm.infer.chat import Conversation
from transformerlm.infer.chat_template import plain_values
from transformerlm.schema.values import is_unicode, show

STDIN = "-"
_EXPECTED = 'expected a list of messages, or an object with "messages"'
_OWN_KEYS = ("tools", "documents", "chat_template_kwargs")


@dataclass(frozen=True)
class Asked:
    """A conversation to go on with, and the data that belongs to it."""

    conversation: Conversation
    record: Mapping[str, Any]
    """All of its JSON object, which is part of the result."""


def read_conversations(config: InferConfig) -> list[Asked]:
    """Return the conversations of [infer].prompt or of [infer].prompt_file; without either, of stdin.

    Each prompt is the user's first message. A file is JSON lines, unless [infer].prompt_format is "lines" or
    "whole".

    Raises:
        ConfigError: there is none, or the file or some of its lines cannot be read.
    """
    source = config.infer
    if source.prompt is not None or source.prompt_format in ("lines", "whole"):
        texts = read_prompts(dataclasses.replace(config, infer=_with_file(source)))
        asked = [_asked({"messages": [{"role": "user", "content": one.text}]}) for one in texts]
    else:
        path = source.prompt_file or STDIN
        asked = parse_lines(read_text(path), path, parse_conversation)
    if not asked:
        raise ConfigError("expected a conversation, got none", key=Key("infer", "prompt_file"))
    variables = source.template_variables() or {}
    return [_completed(one, source.system_prompt, variables) for one in asked]


def parse_conversation(line: str) -> Asked:
    """Parse a line of JSON: a list of messages, or an object with "messages", and with "tools", "documents"
    and "chat_template_kwargs" where the template has a use for them.

    Raises:
        ConfigError: `expected ..., got ...`, without the place.
    """
    value = parse_json(line, _EXPECTED)
    if isinstance(value, list):
        value = {"messages": value}
    if not isinstance(value, dict) or "messages" not in value:
        raise ConfigError(f"{_EXPECTED}, got {show(value)}")
    if not is_unicode(json.dumps(value, ensure_ascii=False)):
        raise ConfigError(f"expected Unicode text, got an unpaired surrogate in {show(line)}")
    for key, kind in zip(_OWN_KEYS, (list, list, dict), strict=True):
        if not isinstance(value.get(key), kind | None):
            raise ConfigError(
                f"{key}: expected {'an object' if kind is dict else 'a list'}, got {show(value[key])}"
            )
    return _asked(value)


def _asked(record: dict[str, Any]) -> Asked:
    plain_values(record)  # raises for messages that are none
    tools, documents, variables = (record.get(key) for key in _OWN_KEYS)
    return Asked(Conversation(record["messages"], tools, documents, variables or {}), record)


def _completed(asked: Asked, system_prompt: str, variables: Mapping[str, Any]) -> Asked:
    own = asked.conversation
    own = dataclasses.replace(own, variables={**variables, **own.variables}).behind(system_prompt)
    return dataclasses.replace(asked, conversation=own)


def _with_file(source: InferSection) -> InferSection:
    """Return [infer] with stdin as the file of prompts, if there is no other source."""
    has_none = source.prompt is None and source.prompt_file is None
    return dataclasses.replace(source, prompt_file=STDIN) if has_none else source
