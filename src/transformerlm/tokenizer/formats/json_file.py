"""JSON files that others have written: read with every fault in one line, `file:line: what`."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformerlm.errors import DataError

Place = Sequence[str | int]
"""The way to a part of a document from outside: a key or a number at each step."""

_DECODER = json.JSONDecoder()
_BETWEEN = re.compile(r"[ \t\r\n,:]*")
"""What may stand between two values."""


class JsonObject(list[tuple[str, Any]]):
    """A JSON object as its members in order, because a key may be there twice."""


class JsonFile:
    """A JSON file that knows on which line each of its parts is.

    Raises:
        DataError: a file that cannot be read, is not UTF-8 or not JSON; and for a part that is not of
            the kind that is asked for.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.text = path, read_utf8(path)
        self.content = parse_json(path, self.text, JsonObject)

    def fault(self, what: str, *place: str | int) -> DataError:
        """`file:line: the keys on the way: what`."""
        names = "".join(f"{step}: " for step in place if isinstance(step, str))
        return DataError(f"{self.path}:{line_of(self.text, place)}: {names}{what}")

    def get(self, *place: str | int) -> Any:
        """The value that is there, None where nothing is."""
        value = self.content
        for depth, step in enumerate(place):
            value = value[step] if isinstance(step, int) else self.fields(*place[:depth]).get(step)
        return value

    def members(self, *place: str | int) -> JsonObject:
        """An object."""
        found = self.get(*place)
        if not isinstance(found, JsonObject):
            raise self.fault(f"expected an object, got {kind(found)}", *place)
        return found

    def fields(self, *place: str | int) -> dict[str, Any]:
        """An object that has no key twice."""
        members = self.members(*place)
        fields: dict[str, Any] = {}
        for index, (key, value) in enumerate(members):
            if key in fields:
                raise self.fault(f"key {key!a:.40} is there twice", *place, index)
            fields[key] = value
        return fields

    def items(self, *place: str | int) -> list[Any]:
        """A list; an empty one where there is nothing."""
        found = self.get(*place)
        if found is not None and (isinstance(found, JsonObject) or not isinstance(found, list)):
            raise self.fault(f"expected a list, got {kind(found)}", *place)
        return found or []


def kind(value: Any) -> str:
    """What a value is, in a few words: null, an object's type with the types within it, or the value."""
    if not isinstance(value, JsonObject):
        return f"{json.dumps(value):.60}"
    fields = dict(value)
    inner = [part for part in fields.values() if isinstance(part, list) and not isinstance(part, JsonObject)]
    types = ", ".join(kind(part) for part in itertools.chain(*inner) if isinstance(part, JsonObject))
    return f"{fields.get('type', 'an object')}{types and f'[{types}]'}"


def read_bytes(path: str | Path) -> bytes:
    """A file's content; DataError `file: why` where it cannot be read."""
    try:
        if Path(path).is_fifo():  # whoever opens one waits
            raise DataError(f"{path}: expected a file, got a FIFO")
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def read_utf8(path: str | Path) -> str:
    """The text of a file, without the mark (BOM) that some programs put before it.

    Raises:
        DataError: `file: what`, or the line and the byte at which it is not UTF-8.
    """
    content = read_bytes(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 at byte {error.start} of the file") from None


def parse_json(path: str | Path, text: str, pairs_hook: Callable[[list[tuple[str, Any]]], Any]) -> Any:
    """What a file's JSON says, with `pairs_hook(its keys and values)` for each object.

    Raises:
        DataError: `file:line: not valid JSON: ...`
    """
    try:
        return json.loads(text, object_pairs_hook=pairs_hook)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, endless nesting
        raise DataError(f"{path}:1: not valid JSON: {error}") from None


def line_of(text: str, place: Place) -> int:
    """The line of a part of valid JSON, which its parser does not tell: where its key or value begins.

    Args:
        place: the way to it from outside: a key or a number at each step (members of an object have
            numbers too: a key may be there twice). Where it leads nowhere, its last step that does counts.
    """
    start = position = _skip(text, 0)
    for step in place:
        found = _member(text, position, step) if text[position] in "{[" else None
        if not found:
            break
        start, position = found
    return text.count("\n", 0, start) + 1


def _member(text: str, position: int, step: str | int) -> tuple[int, int] | None:
    """Where a member of the container at `position` begins, and where its value does; None: there is none."""
    is_object = text[position] == "{"
    position = _skip(text, position + 1)
    for index in itertools.count():
        start, key = position, None
        if text[position] in "}]":
            break
        if is_object:
            key, position = _DECODER.raw_decode(text, position)
            position = _skip(text, position)
        if step in (key, index):
            return start, position
        position = _skip(text, _DECODER.raw_decode(text, position)[1])
    return None


def _skip(text: str, position: int) -> int:
    match = _BETWEEN.match(text, position)
    assert match  # it matches nothing at all, too
    return match.end()
