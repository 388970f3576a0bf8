"""Requests for completions: from JSON to checked fields. What would have no effect is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from transformerlm.errors import Key, Problem
from transformerlm.schema import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    SchemaError,
    Section,
    field_types,
    from_dict,
)
from transformerlm.schema.values import is_unicode, show
from transformerlm.serve.errors import ApiError, bad_request

F = TypeVar("F", bound=Section)

MAX_LOGPROBS = 20
"""Largest number of alternatives beside each token."""
MAX_STOPS = 16
"""Largest number of stop strings."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
}
"""Fields of OpenAI that this server does not have, with the values that change nothing."""

Prompt = str | tuple[int, ...]
"""Text, or ids of tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonFields(Section):
    """Fields that requests for completions and for answers in a conversation have in common.

    Defaults are OpenAI's.
    """

    model: str | None = None
    """The name that /v1/models gives; None: the model that is served."""
    temperature: NonNegativeFloat = 1.0
    """Divisor of the logits; 0 takes the likeliest token."""
    top_p: Probability = 1.0
    """Sample from the smallest set of tokens with this total probability."""
    top_k: PositiveInt | None = None
    """Sample from this many of the likeliest tokens. Not of OpenAI."""
    min_p: Fraction = 0.0
    """Sample from tokens at least this fraction as likely as the likeliest. Not of OpenAI."""
    repetition_penalty: PositiveFloat = 1.0
    """Divides positive logits of tokens that occur already. Not of OpenAI."""
    n: PositiveInt = 1
    """Number of texts for each prompt or conversation."""
    stop: str | tuple[str, ...] = ()
    """Strings that end a text."""
    seed: NonNegativeInt | None = None
    """Seed of the random numbers; None: another one for each request."""
    stream: bool = False
    """Answer with events, one for each token."""
    include_usage: bool = False
    """End a stream with the numbers of tokens: `stream_options.include_usage`."""
    user: str | None = None
    """The client's own name for its user; not kept."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield values that do not go together, and those beyond the server's limits."""
        if not isinstance(self.stop, str) and len(self.stop) > MAX_STOPS:
            yield Problem(Key("stop"), f"expected at most {MAX_STOPS} strings, got {len(self.stop)}")
        if not isinstance(self.stop, str) and "" in self.stop:
            yield Problem(Key("stop"), "expected strings of at least one character")
        if self.include_usage and not self.stream:
            yield Problem(Key("stream_options"), "expected nothing without stream")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields(CommonFields):
    """The fields of a request for completions beside its prompt."""

    max_tokens: NonNegativeInt = 16
    """Largest number of tokens to write; 0 with `echo`, to score the prompt."""
    best_of: PositiveInt | None = None
    """Only n itself: of the texts that are written, none is left out."""
    logprobs: NonNegativeInt | None = None
    """Number of the likeliest tokens to return beside each token, with log-probabilities."""
    echo: bool = False
    """Return the prompt before each text."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield values that do not go together, and those beyond the server's limits."""
        if self.logprobs is not None and self.logprobs > MAX_LOGPROBS:
            yield Problem(Key("logprobs"), f"expected at most {MAX_LOGPROBS}, got {self.logprobs}")
        yield from CommonFields.conflicts(self)  # super() of a class with slots is another class
        if self.best_of not in (None, self.n):
            what = f"expected {self.n}, the same as n, since every text that is written is returned"
            yield Problem(Key("best_of"), f"{what}; got {self.best_of}")
        if self.max_tokens == 0 and not self.echo:
            yield Problem(Key("max_tokens"), "expected at least 1, or echo with 0, got 0")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The strings that end a text."""
        return (self.stop,) if isinstance(self.stop, str) and self.stop else tuple(self.stop)


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A request that has the right form."""

    prompts: tuple[Prompt, ...]
    fields: Fields


def parse(body: bytes) -> CompletionRequest:
    """Parse the body of a request.

    Raises:
        ApiError: 400, which names the fields that are unknown, unsupported or wrong.
    """
    values = json_object(body)
    if "prompt" not in values:
        raise bad_request("prompt: expected text, got nothing", "prompt")
    prompts = _prompts(values.pop("prompt"))
    return CompletionRequest(prompts, checked_fields(Fields, values, NEUTRAL))


def checked_fields(kind: type[F], values: dict[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> F:
    """Return the fields of a request.

    Args:
        values: of the body that are not null, without the text.
        neutral: fields that are not supported, with the values that change nothing.

    Raises:
        ApiError: 400, which names the fields that are unknown, unsupported or wrong.
    """
    values = dict(values)
    for name, changing_nothing in neutral.items():
        if name in values and values.pop(name) not in changing_nothing:
            raise bad_request(f"{name}: not supported by this server", name, "unsupported_parameter")
    values |= _stream_options(values.pop("stream_options", {}), values)
    try:
        return from_dict(kind, values, "")
    except SchemaError as error:
        raise _refusal(error, kind) from None


def json_object(body: bytes) -> dict[str, Any]:
    """Return the values of a body that are not null.

    Raises:
        ApiError: 400 for a body that is no JSON object.
    """
    return {key: value for key, value in _json_object(body).items() if value is not None}


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_no_such_number, object_pairs_hook=_object)
    except RecursionError:
        raise bad_request("expected a JSON object as the body, got one with too many levels") from None
    except ValueError:
        # The parser's own message may quote the body.
        raise bad_request("expected a JSON object as the body, got something that is not JSON") from None
    if not isinstance(value, dict):
        raise bad_request("expected a JSON object as the body, got another value")
    return value


def _no_such_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, of which no field comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise bad_request("expected each field once, got one twice")
    return found


def _prompts(value: Any) -> tuple[Prompt, ...]:
    """Return the prompts: a text, a list of texts, a list of ids, or a list of lists of ids."""
    if _is_ids(value):
        return (tuple(value),)
    listed = [value] if isinstance(value, str) else value
    is_right = isinstance(listed, list) and listed
    if not is_right or not all(isinstance(one, str) or _is_ids(one) for one in listed):
        expected = "text, a list of texts, a list of token ids, or a list of such lists"
        raise bad_request(f"prompt: expected {expected}", "prompt")
    if not all(is_unicode(one) for one in listed if isinstance(one, str)):
        raise bad_request("prompt: expected Unicode text, got an unpaired surrogate", "prompt")
    return tuple(one if isinstance(one, str) else tuple(one) for one in listed)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def _stream_options(options: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `stream_options` as a field."""
    if "include_usage" in values:
        raise bad_request("include_usage: expected within stream_options", "include_usage")
    if not isinstance(options, dict) or not all(
        key == "include_usage" and type(value) is bool for key, value in options.items()
    ):
        what = "expected an object with include_usage, true or false, and nothing else"
        raise bad_request(f"stream_options: {what}", "stream_options")
    return options


def _refusal(error: SchemaError, kind: type[Section]) -> ApiError:
    """Return an error that names every wrong field; `param` is the first."""
    lines = "; ".join(f"{problem.key[-1]}: {problem.what}" for problem in error.problems)
    is_known = any(problem.key[-1] in field_types(kind) for problem in error.problems)
    return bad_request(lines, error.problems[0].key[-1], None if is_known else "unknown_parameter")


def check_model(name: str | None, served: str) -> None:
    """Check that a request means the model that is served.

    Raises:
        ApiError: 404.
    """
    if name not in (None, served):
        what = f'model: expected "{served}", the one that is served, got {show(name)}'
        raise ApiError(HTTPStatus.NOT_FOUND, what, param="model", code="model_not_found")
