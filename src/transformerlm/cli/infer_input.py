"""Prompts of transformerlm-infer: from arguments, the config, a file or stdin. Imports no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from transformerlm.config import InferConfig
from transformerlm.data.kinds import is_jsonl_name
from transformerlm.errors import ConfigError, Key
from transformerlm.schema.values import is_unicode, show

T = TypeVar("T")

MAX_PROBLEMS = 10
"""Maximum number of wrong lines of a file that are reported; the others are only counted."""

_FILE = Key("infer", "prompt_file")


@dataclass(frozen=True)
class Prompt:
    """A text to continue, and the data that belongs to it."""

    text: str
    others: Mapping[str, Any] = field(default_factory=dict)
    """The other keys of its JSON object, such as an "id"."""


def read_prompts(config: InferConfig) -> list[Prompt]:
    """Return the texts to continue: [infer].prompt, else [infer].prompt_file, else [generation].prompts.

    Raises:
        ConfigError: there is none, or the file or some of its lines cannot be read.
    """
    source = config.infer
    key, prompts = Key("generation", "prompts"), [Prompt(text) for text in config.generation.prompts]
    if source.prompt is not None:
        texts = (source.prompt,) if isinstance(source.prompt, str) else source.prompt
        key, prompts = Key("infer", "prompt"), [Prompt(text) for text in texts]
    elif source.prompt_file is not None:
        kind = source.prompt_format
        if kind == "auto":
            kind = "jsonl" if is_jsonl_name(source.prompt_file) else "lines"
        key = _FILE
        prompts = _prompts_of(read_text(source.prompt_file), kind, source.prompt_file)
    if not prompts:
        raise ConfigError("expected a prompt, got none", key=key)
    return prompts


def _prompts_of(text: str, kind: str, path: str) -> list[Prompt]:
    if kind == "whole":
        return [Prompt(text)] if text else []
    if kind == "lines":
        return [Prompt(line) for _, line in _lines(text)]
    return parse_lines(text, path, parse_prompt)


def parse_lines(text: str, path: str, parse: Callable[[str], T]) -> list[T]:
    """Parse every line that is not empty.

    Args:
        path: where the text is from, for messages; "-" for stdin.
        parse: raises ConfigError, without the place, for a line that is wrong.

    Raises:
        ConfigError: a problem for each of the first wrong lines, with its place.
    """
    found, problems = [], []
    for number, line in _lines(text):
        try:
            found.append(parse(line))
        except ConfigError as error:
            problems.append(f"{_name(path)}:{number}: {error}")
    if problems:
        more = [f"{_name(path)}: and {len(problems) - MAX_PROBLEMS} more such lines"]
        raise ConfigError(problems[:MAX_PROBLEMS] + (more if len(problems) > MAX_PROBLEMS else []))
    return found


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Return the lines that are not empty, with their numbers from 1."""
    # Not str.splitlines, which also ends a line at a form feed and other characters.
    lines = text.replace("\r\n", "\n").split("\n")
    return ((number, line) for number, line in enumerate(lines, 1) if line)


def parse_prompt(line: str) -> Prompt:
    """Parse a line of JSON: a string, or an object with a "prompt".

    Raises:
        ConfigError: `expected ..., got ...`, without the place.
    """
    expected = 'expected a JSON string or an object with a "prompt"'
    value = parse_json(line, expected)
    others = dict(value) if isinstance(value, dict) else {"prompt": value}
    if "prompt" not in others or (not isinstance(value, dict) and type(value) is not str):
        raise ConfigError(f"{expected}, got {show(value)}")
    text = others.pop("prompt")
    if type(text) is not str or not is_unicode(text):
        raise ConfigError(f"expected text as the prompt, got {show(text)}")
    return Prompt(text, others)


def parse_json(line: str, expected: str) -> Any:
    """Parse a line of JSON.

    Raises:
        ConfigError: it is none; the message begins with `expected`.
    """
    try:
        return json.loads(line, parse_constant=_no_such_number)
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise ConfigError(f"{expected}, got {show(line)}: {why}") from None


def _no_such_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def read_text(path: str) -> str:
    """Return the text of a file, or of stdin for "-".

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).expanduser().read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        what = f"expected a file of prompts, got {path}: {error.strerror}"
        raise ConfigError(what, key=_FILE) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        got = f"expected UTF-8, got byte 0x{error.object[error.start]:02x}"
        raise ConfigError(f"{_name(path)}:{line}: {got}") from None


def _name(path: str) -> str:
    return "stdin" if path == "-" else path
