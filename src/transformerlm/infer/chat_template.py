"""Chat templates: from a conversation to the text that a model was trained to go on with.

A template is a program in Jinja's language that a model's publisher has written, kept as `chat_template` in
`tokenizer_config.json`. It may come from anybody, so it runs in Jinja's sandbox on plain JSON values. The
environment is that of transformers' `apply_chat_template`, which is the definition of what a template may
use (https://huggingface.co/docs/transformers/chat_templating_writing).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from transformerlm.errors import ConfigError, DataError
from transformerlm.storage.untrusted import printable

Message = Mapping[str, Any]
"""`{"role": "user", "content": "Hi"}`, and whatever else the template knows."""
Messages = Sequence[Message]

DEFAULT, TOOL_USE = "default", "tool_use"
"""Names, in a list of templates, of the one that is used, and of the one that is used with tools."""
_CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "
"""Marks the end of a message that is to go on. Its last space shows whether the template strips messages."""
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names under which programs keep what a model has thought before its answer."""
_MAX_SHOWN = 300


class ChatTemplate:
    """A compiled template.

    Args:
        source: in Jinja's language.
        tokens: values of `bos_token`, `eos_token` and such, which the template may use.

    Raises:
        DataError: the source is no template.
    """

    def __init__(self, source: str, tokens: Mapping[str, str] | None = None) -> None:
        self.source, self.tokens = source, dict(tokens or {})
        try:
            self._template = _compiled(source)
        except jinja2.TemplateSyntaxError as error:
            what = f"line {error.lineno}: {printable(error.message, _MAX_SHOWN)}"
            raise DataError(f"chat_template: expected a template in Jinja's language, got {what}") from None

    def render(
        self,
        messages: Messages,
        *,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
    ) -> str:
        """Return the text of a conversation, as `apply_chat_template(..., tokenize=False)` does.

        Args:
            tools: JSON schemas of functions.
            documents: for templates that answer from documents.
            variables: further variables of the template, such as `enable_thinking`.
            add_generation_prompt: end with the beginning of an answer.
            continue_final_message: end within the last message, which the model goes on with.

        Raises:
            ConfigError: messages that are no JSON, or that the template refuses.
        """
        named = {"messages": messages, "tools": tools, "documents": documents}
        plain = plain_values({**(variables or {}), **named})
        plain["messages"] = [_with_reasoning(message) for message in plain["messages"]]
        last = _mark_end(plain["messages"]) if continue_final_message else ""
        text = self._run({**self.tokens, **plain, "add_generation_prompt": add_generation_prompt})
        return _cut_at_mark(text, last) if continue_final_message else text

    def _run(self, values: Mapping[str, Any]) -> str:
        try:
            return self._template.render(values)
        except Exception as error:  # the template is a program of somebody else: any error is its own
            what = printable(str(error) or type(error).__name__, _MAX_SHOWN)
            raise ConfigError(f"the chat template refuses the conversation: {what}") from None


def choose_template(config: Mapping[str, Any], name: str | None = None, *, with_tools: bool = False) -> str:
    """Return the template of a `tokenizer_config`, which may have one, or several with names.

    Args:
        name: of the template; None: "tool_use" with tools where there is one, else "default".

    Raises:
        ConfigError: there is none, or none of this name.
    """
    kept = config.get("chat_template")
    if not kept:
        what = "this model has no chat template, and may know no conversations: let it continue text"
        raise ConfigError(f"{what}; where it does, put its chat_template.jinja into its tokenizer's folder")
    named = {DEFAULT: kept} if isinstance(kept, str) else _named(kept)
    wanted = name or (TOOL_USE if with_tools and TOOL_USE in named else DEFAULT)
    if wanted not in named:
        found = ", ".join(printable(one, 40) for one in named)
        raise ConfigError(f'expected a chat template of the tokenizer ({found}), got "{wanted}"')
    return named[wanted]


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON has them: nothing that the sandbox does not know reaches a template.

    Raises:
        ConfigError: a value that JSON does not have, or messages that are no list of objects with a "role".
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps(values))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"messages: expected JSON values: {printable(error, 80)}") from None
    messages = plain.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ConfigError('messages: expected a list of {"role": ..., "content": ...}, got none')
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            shown = printable(json.dumps(message), 60)
            what = f'expected an object with a "role" and a "content", got {shown}'
            raise ConfigError(f"messages[{index}]: {what}")
    return plain


def _named(kept: object) -> dict[str, str]:
    """Return templates by name; both forms that transformers writes are read.

    Raises:
        ConfigError: another form.
    """
    pairs: list[tuple[object, object]] = []
    if isinstance(kept, Mapping):
        pairs = list(kept.items())
    elif isinstance(kept, Sequence) and all(isinstance(one, Mapping) for one in kept):
        pairs = [(one.get("name"), one.get("template")) for one in kept]
    found = {name: source for name, source in pairs if isinstance(name, str) and isinstance(source, str)}
    if not found:
        raise ConfigError(
            f"chat_template: expected a template, or several by name, got {printable(kept, 60)}"
        )
    return found


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with its reasoning under the names that templates read."""
    found = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    return message if found is None else {"thinking": found, **message, "reasoning_content": found}


def _mark_end(messages: list[dict[str, Any]]) -> str:
    """Mark the end of the last message's text; return that text."""
    content = messages[-1].get("content")
    if isinstance(content, str):
        messages[-1]["content"] = content + _CONTINUE
        return content
    parts = content if isinstance(content, list) else []
    for part in reversed(parts):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text: str = part["text"]
            part["text"] += _CONTINUE
            return text
    raise ConfigError("messages: expected text in the last message, which is to go on, got none")


def _cut_at_mark(text: str, last: str) -> str:
    place = text.rfind(_CONTINUE.rstrip())
    if place < 0 or last.strip() not in text:
        raise ConfigError("the chat template leaves out the last message: it cannot go on")
    is_whole = text.startswith(_CONTINUE, place)
    return text[:place] if is_whole else text[:place].rstrip()


class _Generation(Extension):
    """`{% generation %}`, which marks what the model writes; it changes nothing of the text."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> Node | list[Node]:
        """Return the statements between the tags."""
        line = next(parser.stream).lineno
        # In a scope of its own, as in transformers, where the block is called like a macro.
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller: Any) -> str:
        return str(caller())


class _Namespace(Namespace):
    """`namespace` without names that lead to Python's own attributes."""

    def __init__(*args: Any, **values: Any) -> None:  # so that a value may be called "self"
        self, *given = args
        found = dict(*given, **values)
        for name in found:
            _check_name(name)
        Namespace.__init__(self, found)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace has no attribute {name!r}")


def _dict(*args: Any, **values: Any) -> dict[Any, Any]:
    return dict(*args, **values)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON without the escapes for HTML that Jinja's own filter makes."""
    how: dict[str, Any] = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> jinja2.Template:
    return _environment().from_string(source)


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "namespace": _Namespace,
        "dict": _dict,
    }
    return environment
