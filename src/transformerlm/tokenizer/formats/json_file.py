"""Reading JSON files of other programs, with errors that carry the line of the part they are about."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from transformerlm.errors import DataError
from transformerlm.tokenizer.formats.text_file import FileError, read_bytes, read_utf8

JsonPath = Sequence[str | int]
"""Steps from the root of a document to a part of it: keys of objects, indices of lists."""

_DECODER = json.JSONDecoder()
_SEPARATORS = re.compile(r"[ \t\r\n,:]*")
_ESCAPED_COLON = re.compile(rb"\\u003[aA]")


class JsonObject(list[tuple[str, Any]]):
    """A JSON object as a list of its members in order: files may hold a key twice."""


class JsonFile:
    """A parsed JSON file, whose errors name the line of the part that they are about.

    Raises:
        DataError: a file that cannot be read, is not UTF-8 or is not JSON. The methods raise it for a part
            that has another type than the one asked for.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.content = parse_json(path, self.text, JsonObject)

    @classmethod
    def if_usual(cls, path: str | Path) -> Self | None:
        """Return a file that is parsed in half of the time; None if `parse_usual` leaves it to `parse_json`.

        Its errors may describe a large number otherwise: the usual way is to read the file again after one.

        Raises:
            DataError: a file that cannot be read.
        """
        content = read_bytes(path)
        found = parse_usual(content)
        if not isinstance(found, dict):
            return None
        file = cls.__new__(cls)
        file.path, file.content = path, found
        return file

    @functools.cached_property
    def text(self) -> str:
        """The text of the file."""
        return read_utf8(self.path)

    def error(self, what: str, *place: str | int) -> DataError:
        """Return an error about the part at `place`: `path:line: keys: what`."""
        keys = "".join(f"{step}: " for step in place if isinstance(step, str))
        return FileError(self.path, f"{keys}{what}", line_of(self.text, place))

    def get(self, *place: str | int) -> Any:
        """Return the value at `place`, or None where there is none."""
        value = self.content
        for depth, step in enumerate(place):
            value = value[step] if isinstance(step, int) else self.fields(*place[:depth]).get(step)
        return value

    def members(self, *place: str | int) -> JsonObject:
        """Return the object at `place` as a list of its members."""
        found = self.get(*place)
        if isinstance(found, dict):
            return JsonObject(found.items())
        if not isinstance(found, JsonObject):
            raise self.error(f"expected an object, got {describe(found)}", *place)
        return found

    def fields(self, *place: str | int) -> dict[str, Any]:
        """Return the object at `place` as a dictionary; a key that occurs twice is an error."""
        return self.fields_of(self.get(*place), *place)

    def fields_of(self, members: Any, *place: str | int) -> dict[str, Any]:
        """Return `members`, the object at `place`, as a dictionary; without going there from the root."""
        if isinstance(members, dict):
            return members
        if not isinstance(members, JsonObject):
            raise self.error(f"expected an object, got {describe(members)}", *place)
        fields: dict[str, Any] = dict(members)
        if len(fields) < len(members):
            seen: set[str] = set()
            for index, (key, _) in enumerate(members):
                if key in seen:
                    raise self.error(f"key {key!a:.40} is there twice", *place, index)
                seen.add(key)
        return fields

    def items(self, *place: str | int) -> list[Any]:
        """Return the list at `place`, or an empty one where there is none."""
        found = self.get(*place)
        if found is not None and (isinstance(found, JsonObject) or not isinstance(found, list)):
            raise self.error(f"expected a list, got {describe(found)}", *place)
        return found or []


def describe(value: Any) -> str:
    """Return a short description of a value: an object's "type" and those of objects in it, or the value."""
    if not isinstance(value, JsonObject | dict):
        return f"{json.dumps(value):.60}"
    fields = dict(value)
    inner = [part for part in fields.values() if isinstance(part, list) and not isinstance(part, JsonObject)]
    objects = (part for part in itertools.chain(*inner) if isinstance(part, JsonObject | dict))
    types = ", ".join(map(describe, objects))
    return f"{fields.get('type', 'an object')}{types and f'[{types}]'}"


def parse_json(path: str | Path, text: str, pairs_hook: Callable[[list[tuple[str, Any]]], Any]) -> Any:
    """Parse the text of a JSON file, with `pairs_hook(members)` in place of each object.

    Raises:
        FileError: text that is not JSON, with the line.
    """
    try:
        return json.loads(text, object_pairs_hook=pairs_hook)
    except json.JSONDecodeError as error:
        raise FileError(path, f"not valid JSON: {error.msg}", error.lineno) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, endless nesting
        raise FileError(path, f"not valid JSON: {error}", 1) from None


def parse_usual(content: bytes) -> Any:
    """Parse a JSON file as most are, in half of the time, with a dictionary for each object.

    Returns None, which says nothing, for what only `parse_json` judges: what is not JSON or not UTF-8, NaN,
    an unpaired surrogate, a byte order mark, very deep nesting, and an object that has a key twice. Integers
    of more than 64 bits become floats.
    """
    import orjson

    try:
        found = orjson.loads(content)
        kept = orjson.dumps(found)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    # There is a colon in each member, and each in a text stands for itself: where a member has been left out,
    # since its key comes again, there are fewer.
    is_whole = _num_colons(content) == _num_colons(kept)
    return found if is_whole and not _ESCAPED_COLON.search(content) else None


def _num_colons(content: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(content, np.uint8) == ord(":")))


def line_of(text: str, place: JsonPath) -> int:
    """Return the line on which a part of valid JSON text begins (a member of an object: its key).

    Args:
        place: steps to the part. Members of an object have indices too, since a key may occur twice.
            Where a step leads nowhere, the line is that of the part before it.
    """
    start = position = _skip_separators(text, 0)
    for step in place:
        found = _member(text, position, step) if text[position] in "{[" else None
        if not found:
            break
        start, position = found
    return text.count("\n", 0, start) + 1


def _member(text: str, position: int, step: str | int) -> tuple[int, int] | None:
    """Return the offsets of a member and of its value in the container at `position`; None without one."""
    is_object = text[position] == "{"
    position = _skip_separators(text, position + 1)
    for index in itertools.count():
        start, key = position, None
        if text[position] in "}]":
            break
        if is_object:
            key, position = _DECODER.raw_decode(text, position)
            position = _skip_separators(text, position)
        if step in (key, index):
            return start, position
        position = _skip_separators(text, _DECODER.raw_decode(text, position)[1])
    return None


def _skip_separators(text: str, position: int) -> int:
    match = _SEPARATORS.match(text, position)
    assert match  # the pattern matches the empty string too
    return match.end()
