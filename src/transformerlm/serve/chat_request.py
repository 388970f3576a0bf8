"""Requests for answers in a conversation: OpenAI's chat form, as a request for a completion of its text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from transformerlm.errors import ConfigError, Key, Problem
from transformerlm.infer.chat import ChatFormat, Conversation
from transformerlm.infer.chat_template import Messages
from transformerlm.schema import (
    NonNegativeInt,
    PositiveInt,
)
from transformerlm.schema.values import is_unicode, show
from transformerlm.serve.errors import ApiError, bad_request
from transformerlm.serve.request import (
    MAX_LOGPROBS,
    CommonFields,
    CompletionRequest,
    Fields,
    checked_fields,
    json_object,
)

ROLES = ("system", "developer", "user", "assistant")
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("frequency_penalty", "presence_penalty"), (0,)),
    **dict.fromkeys(("logit_bias", "metadata"), ({},)),
    **dict.fromkeys(("tools", "functions"), ([],)),
    **dict.fromkeys(("tool_choice", "function_call"), ("none",)),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "prediction": (),
    "reasoning_effort": ("none",),
    "audio": (),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields of OpenAI that this server does not have, with the values that change nothing."""
_MESSAGE_KEYS = {"role", "content", "name", "reasoning_content"}
_NEUTRAL_OF_MESSAGE = ("refusal", "audio", "tool_calls", "function_call", "annotations")
"""Further keys of a message, which answers of OpenAI have: they may say nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatFields(CommonFields):
    """The fields of a request beside its messages."""

    max_tokens: PositiveInt | None = None
    """Older name of max_completion_tokens."""
    max_completion_tokens: PositiveInt | None = None
    """Largest number of tokens to write; None: as many as the context and the server allow."""
    logprobs: bool = False
    """Return the log-probability of each token."""
    top_logprobs: NonNegativeInt | None = None
    """Number of the likeliest tokens to return beside each token; needs logprobs."""
    safety_identifier: str | None = None
    """Newer name of `user`."""
    prompt_cache_key: str | None = None
    """Name of requests with a common beginning, which is found here without one."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield values that do not go together, and those of a completion's fields."""
        if self.top_logprobs is not None and not self.logprobs:
            yield Problem(Key("top_logprobs"), "expected nothing without logprobs")
        if self.top_logprobs is not None and self.top_logprobs > MAX_LOGPROBS:
            yield Problem(Key("top_logprobs"), f"expected at most {MAX_LOGPROBS}, got {self.top_logprobs}")
        if None not in (self.max_tokens, self.max_completion_tokens):
            yield Problem(Key("max_tokens"), "expected nothing beside max_completion_tokens")
        yield from CommonFields.conflicts(self)

    def as_completion(self, max_tokens: int) -> Fields:
        """Return the fields of a request for a completion.

        Args:
            max_tokens: if the request says nothing of it.
        """
        names = {field.name for field in dataclasses.fields(Fields)} & {
            field.name for field in dataclasses.fields(self)
        }
        values = {name: getattr(self, name) for name in names}
        values["max_tokens"] = self.max_completion_tokens or self.max_tokens or max_tokens
        values["logprobs"] = (self.top_logprobs or 0) if self.logprobs else None
        return Fields(**values)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request that has the right form."""

    messages: Messages
    fields: ChatFields
    variables: Mapping[str, Any]
    """Of the template."""

    def as_completion(self, chat: ChatFormat, context_length: int, max_new_tokens: int) -> CompletionRequest:
        """Return the request for a completion of the conversation.

        Args:
            max_new_tokens: largest number of tokens that the server writes.

        Raises:
            ApiError: 400 for a conversation that the template refuses.
        """
        try:
            prompt = chat.encode(Conversation(self.messages, variables=self.variables))
        except ConfigError as error:
            raise bad_request(f"messages: {error}", "messages") from None
        room = max(1, min(max_new_tokens, context_length - len(prompt.ids)))
        return CompletionRequest((tuple(prompt.ids),), self.fields.as_completion(room))


def parse_chat(body: bytes) -> ChatRequest:
    """Parse the body of a request.

    Raises:
        ApiError: 400, which names the fields that are unknown, unsupported or wrong.
    """
    values = json_object(body)
    messages = _messages(values.pop("messages", None))
    variables = values.pop("chat_template_kwargs", {})
    if not isinstance(variables, dict):
        raise bad_request("chat_template_kwargs: expected an object", "chat_template_kwargs")
    return ChatRequest(messages, checked_fields(ChatFields, values, NEUTRAL), variables)


def _messages(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise bad_request("messages: expected a list of messages, got none", "messages")
    return [_message(one, f"messages[{index}]") for index, one in enumerate(value)]


def _message(value: Any, name: str) -> dict[str, Any]:
    """Return a message whose content is one text.

    Raises:
        ApiError: another role, or something that is no text.
    """
    if not isinstance(value, dict):
        raise bad_request(f"{name}: expected an object with role and content", "messages")
    role = value.get("role")
    if role not in ROLES:
        raise bad_request(f"{name}.role: expected {', '.join(ROLES)}, got {show(role)}", "messages")
    for key in value.keys() - _MESSAGE_KEYS:
        if key not in _NEUTRAL_OF_MESSAGE or value[key]:
            what = f"{name}.{show(key)[1:-1]}: not supported by this server"
            raise ApiError(HTTPStatus.BAD_REQUEST, what, param="messages", code="unsupported_parameter")
    kept = {key: value[key] for key in _MESSAGE_KEYS & value.keys() if value[key] is not None}
    # Templates know the newer name of the role only rarely.
    kept["role"] = "system" if role == "developer" else role
    return {**kept, "content": _content(value.get("content"), f"{name}.content")}


def _content(value: Any, name: str) -> str:
    """Return the text of a message; parts of text are lines of it."""
    parts = [{"type": "text", "text": value}] if isinstance(value, str) else value
    if not isinstance(parts, list) or not parts:
        raise bad_request(f"{name}: expected text, or a list of parts of text", "messages")
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise bad_request(f'{name}: expected parts of the type "text" alone', "messages")
    text = "\n".join(part["text"] for part in parts)
    if not is_unicode(text):
        raise bad_request(f"{name}: expected Unicode text, got an unpaired surrogate", "messages")
    return text
