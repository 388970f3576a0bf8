"""Conversations: from messages to the ids that a model goes on with, and the ends of its answers.

Special tokens that the template writes are control; those that stand in somebody's words are text, encoded
like any other: who writes "<|im_end|>" does not end a message. transformers does the same with
`apply_chat_template(..., sanitize_control_tokens=True)`, and by default does not.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformerlm.config import GenerationConfig
from transformerlm.errors import ConfigError
from transformerlm.infer.chat_template import ChatTemplate, Messages, choose_template
from transformerlm.infer.completion import EncodedPrompt
from transformerlm.tokenizer import Tokenizer
from transformerlm.tokenizer.formats.tokenizer_config import TOKEN_KEYS

_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
"""Code points that Unicode sets aside for use within programs; texts that are exchanged have none."""
_PROBE = "An answer."


@dataclass(frozen=True)
class Conversation:
    """Messages, and what else a template may use."""

    messages: Messages
    """If the last one is of the role "assistant", it goes on; else the assistant answers."""
    tools: Sequence[Any] | None = None
    """JSON schemas of functions."""
    documents: Sequence[Any] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    """Further variables of the template, such as `enable_thinking`."""

    @property
    def goes_on(self) -> bool:
        """True if the last message is the beginning of an answer."""
        return bool(self.messages) and self.messages[-1].get("role") == "assistant"

    def behind(self, system_prompt: str) -> Conversation:
        """Return the conversation behind a system prompt, unless it has one, or "" is given."""
        if not system_prompt or (self.messages and self.messages[0].get("role") in ("system", "developer")):
            return self
        first = {"role": "system", "content": system_prompt}
        return dataclasses.replace(self, messages=[first, *self.messages])


class ChatFormat:
    """What a tokenizer says of conversations: its templates and special tokens.

    Args:
        name: of the template, where there are several; None: see `choose_template`.

    Raises:
        ConfigError: there is no template, or none of this name.
        DataError: the template cannot be used.
    """

    def __init__(self, tokenizer: Tokenizer, name: str | None = None) -> None:
        self._tokenizer, self._name = tokenizer, name
        self._template(with_tools=False)

    def encode(self, conversation: Conversation) -> EncodedPrompt:
        """Return the text of a conversation up to where the model goes on, and its ids.

        Raises:
            ConfigError: the template refuses the conversation.
        """
        given: dict[str, Any] = {"messages": conversation.messages, "tools": conversation.tools}
        given |= {"documents": conversation.documents, "variables": conversation.variables}
        marks = _unused_marks(given)
        special = _alternatives(self._tokenizer.special_token_ids)
        marked = {key: _marked(value, special, marks) for key, value in given.items()}
        template = self._template(with_tools=bool(conversation.tools))
        rendered = template.render(
            **marked,
            add_generation_prompt=not conversation.goes_on,
            continue_final_message=conversation.goes_on,
        )
        pieces = list(_pieces(rendered, special, marks))
        ids = _encoded(self._tokenizer, pieces)
        return EncodedPrompt("".join(text for text, _ in pieces), ids)

    def settings(self, generation: GenerationConfig) -> GenerationConfig:
        """Return [generation] with the tokens that end an answer: its own, the tokenizer's `eos_token`, and
        the special token that the template puts behind an answer."""
        ends = (self._tokenizer.tokenizer_config.get("eos_token"), self._end_of_turn)
        tokens = dict.fromkeys([*generation.stop_tokens, *filter(None, ends)])
        tokens.pop(generation.eos_token, None)
        return dataclasses.replace(generation, stop_tokens=tuple(tokens))

    @functools.cached_property
    def _end_of_turn(self) -> str | None:
        question, answer = ({"role": role, "content": _PROBE} for role in ("user", "assistant"))
        try:
            text = self._template(with_tools=False).render([question, answer])
        except ConfigError:
            return None
        behind = text[text.rfind(_PROBE) + len(_PROBE) :] if _PROBE in text else ""
        found = _alternatives(self._tokenizer.special_token_ids).match(behind.lstrip())
        return found[0] if found else None

    def _template(self, *, with_tools: bool) -> ChatTemplate:
        config = self._tokenizer.tokenizer_config
        source = choose_template(config, self._name, with_tools=with_tools)
        return ChatTemplate(source, {key: config[key] for key in TOKEN_KEYS if key in config})


def _alternatives(tokens: Collection[str]) -> re.Pattern[str]:
    """Return the expression that finds any of some tokens, the longest first."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _unused_marks(given: Mapping[str, Any]) -> tuple[str, str]:
    """Return two characters that stand nowhere in some values.

    Raises:
        ConfigError: there are none, or the values are not JSON's.
    """
    try:
        text = json.dumps(given, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise ConfigError("messages: expected JSON values") from None
    unused = [mark for mark in _MARKS if mark not in text]
    if len(unused) < 2:
        raise ConfigError("messages: expected text, got one with all of Unicode's noncharacters")
    return unused[0], unused[1]


def _marked(value: Any, special: re.Pattern[str], marks: tuple[str, str]) -> Any:
    """Return a JSON value with marks around the special tokens in its texts."""
    if isinstance(value, str):
        return special.sub(lambda found: f"{marks[0]}{found[0]}{marks[1]}", value)
    if isinstance(value, Mapping):
        return {key: _marked(one, special, marks) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(one, special, marks) for one in value]
    return value


def _pieces(text: str, special: re.Pattern[str], marks: tuple[str, str]) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a rendered text without its marks, each with True if it is a special token that
    stands for itself. A template may have divided a pair of marks; each of them parts the text too."""
    begin, end = marks
    parts = re.split(f"{begin}({special.pattern}){end}|[{begin}{end}]", text)
    for index, part in enumerate(parts):
        if part:
            yield part, index % 2 == 1


def _encoded(tokenizer: Tokenizer, pieces: Sequence[tuple[str, bool]]) -> list[int]:
    ids: list[int] = []
    for text, is_literal in pieces:
        ids += tokenizer.encode(text, allowed_special=() if is_literal else "all")
    return ids
