"""Config values: the ranges that a type allows, their wording, and how an error shows a value."""

from __future__ import annotations

import math
import numbers
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

from transformerlm.errors import one_line, shortened

MAX_INT = 2**63 - 1
"""The largest whole number, as in TOML."""


class Range:
    """A condition on a number and its wording."""

    def __init__(self, text: str, low: float, high: float = math.inf, above_low: bool = False) -> None:
        self.text, self.low, self.high, self.above_low = text, low, high, above_low

    def holds(self, value: float) -> bool:
        """Return True if `value` lies between `low` and `high`; `above_low` excludes `low` itself."""
        return self.low <= value <= self.high and not (self.above_low and value == self.low)


class NotEmpty:
    """Marks a string that must not be empty."""

    text = "text that is not empty"

    def holds(self, value: str) -> bool:
        """Return True if `value` holds more than white space."""
        return bool(value.strip())


class IsPath(NotEmpty):
    """Marks a string that names a file or folder, which need not exist."""

    text = "a path"
    placeholder = "PATH"

    def holds(self, value: str) -> bool:
        """Return True if such a file can exist: no NUL in it, and for `~name/` a user of that name."""
        try:
            Path(value).expanduser()
        except RuntimeError:
            return False
        return NotEmpty.holds(self, value) and "\0" not in value


AUTO = "auto"
"""Value of a key whose number is chosen later."""


class IsAuto:
    """Marks the value AUTO."""

    text = '"auto"'
    placeholder = AUTO

    def holds(self, value: str) -> bool:
        """Return True if `value` is AUTO."""
        return value == AUTO


PositiveInt = Annotated[int, Range("a whole number of at least 1", low=1)]
NonNegativeInt = Annotated[int, Range("a whole number of at least 0", low=0)]
PositiveFloat = Annotated[float, Range("a number above 0", low=0, above_low=True)]
NonNegativeFloat = Annotated[float, Range("a number of at least 0", low=0)]
Fraction = Annotated[float, Range("a number from 0 to 1", low=0, high=1)]
Probability = Annotated[float, Range("a number above 0 and at most 1", low=0, high=1, above_low=True)]
NumThreads = Annotated[int, Range("a whole number from 1 to 1024", low=1, high=1024)]
Text = Annotated[str, NotEmpty()]
FilePath = Annotated[str, IsPath()]
if typing.TYPE_CHECKING:
    # AUTO is replaced by a number before anything computes with the key (`Section.automatic`).
    AutoPositiveInt: TypeAlias = int
    AutoNonNegativeInt: TypeAlias = int
    AutoPositiveFloat: TypeAlias = float
    AutoNonNegativeFloat: TypeAlias = float
    AutoFraction: TypeAlias = float
    AutoFilePath: TypeAlias = str
else:
    AutoPositiveInt = PositiveInt | Annotated[str, IsAuto()]
    AutoNonNegativeInt = NonNegativeInt | Annotated[str, IsAuto()]
    AutoPositiveFloat = PositiveFloat | Annotated[str, IsAuto()]
    AutoNonNegativeFloat = NonNegativeFloat | Annotated[str, IsAuto()]
    AutoFraction = Fraction | Annotated[str, IsAuto()]
    AutoFilePath = FilePath | Annotated[str, IsAuto()]


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def describe(hint: Any) -> str:
    """Return a type in a user's words: `a number above 0`, `one of "a", "b"`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return str(arguments[1].text)
    if origin is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("nothing (None)" if part is type(None) else describe(part) for part in arguments)
    if origin is tuple and arguments[-1] is ...:
        is_value = get_origin(arguments[0]) or arguments[0] in _NAMES
        return f"a list, each {describe(arguments[0])}" if is_value else "a list of tables"
    if origin is tuple:
        return f"a list of {len(arguments)}, each {describe(arguments[0])}"
    if origin is dict:
        return "a table"
    return _NAMES.get(hint) or f"a table [{hint.__name__}]"


def placeholder(hint: Any) -> str:
    """Return what stands for a value of this type in a usage line: `N`, `PATH`, `auto|never|must`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return getattr(arguments[1], "placeholder", "") or placeholder(arguments[0])
    if origin is Literal:
        return "|".join(arguments)
    if origin in (typing.Union, types.UnionType):
        parts = [placeholder(part) for part in arguments if part is not type(None)]
        return "|".join(dict.fromkeys(parts))
    if origin is tuple and arguments[-1] is not ...:
        return ",".join(placeholder(part) for part in arguments)
    if origin is dict:
        return "TABLE"
    return {bool: "true|false", int: "N", float: "NUMBER", str: "TEXT"}.get(hint, "LIST")


def choices(hint: Any) -> list[str]:
    """Return the words that a value of this type may be: those of a Literal, true and false, "auto"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return [AUTO] if isinstance(arguments[1], IsAuto) else choices(arguments[0])
    if origin is Literal:
        return list(arguments)
    if origin in (typing.Union, types.UnionType):
        return [word for part in arguments for word in choices(part)]
    return ["true", "false"] if hint is bool else []


def takes_path(hint: Any) -> bool:
    """Return True if a value of this type may name a file or folder."""
    if get_origin(hint) is Annotated:
        return isinstance(get_args(hint)[1], IsPath)
    return any(takes_path(part) for part in get_args(hint))


def convert(value: Any, hint: Any) -> tuple[Any, str]:
    """Return `value` converted to the type, and what is wrong with it ("" if nothing).

    Only conversions that lose nothing are made: a list to a tuple, an int to a float, a Path to text, a
    scalar of NumPy to Python's own. True is no number, 3.7 and "32" are no whole numbers.
    """
    found = _converted(value, hint)
    if found is _INVALID:
        return value, f"expected {describe(hint)}, got {show(value)}{_advice(value, hint)}"
    return found, ""


def _advice(value: Any, hint: Any) -> str:
    """Return `; did you mean ...?` where a condition of the type can tell what was meant, else ""."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return next(filter(None, (_advice(value, part) for part in arguments)), "")
    meant = arguments[1].meant_by(value) if origin is Annotated and hasattr(arguments[1], "meant_by") else ""
    return f"; did you mean {show(meant)}?" if meant else ""


def are_known(*values: Any) -> bool:
    """Return True if none of the values is AUTO."""
    return AUTO not in values


def is_automatic(value: Any, hint: Any) -> bool:
    """Return True if `value` is AUTO and the key's number is chosen later."""
    return value == AUTO and any(
        isinstance(mark, IsAuto) for part in get_args(hint) for mark in get_args(part)[1:]
    )


_INVALID = object()


def _converted(value: Any, hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if isinstance(arguments[1], IsPath) and isinstance(value, os.PathLike):
            value = os.fspath(value)
        found = _converted(value, arguments[0])
        return found if found is not _INVALID and arguments[1].holds(found) else _INVALID
    if origin is Literal:
        return value if isinstance(value, str) and value in arguments else _INVALID
    if origin in (typing.Union, types.UnionType):
        return next(
            (found for part in arguments if (found := _converted(value, part)) is not _INVALID), _INVALID
        )
    if origin is tuple:
        return _converted_list(value, arguments)
    if origin is dict:
        return dict(value) if isinstance(value, Mapping) else _INVALID
    return _converted_scalar(value, hint)


def _converted_scalar(value: Any, hint: Any) -> Any:
    if type(value) not in (bool, int, float) and isinstance(value, numbers.Real) and hasattr(value, "item"):
        value = value.item()  # a scalar of NumPy
    if type(value) is int and abs(value) > MAX_INT:
        return _INVALID
    if hint is float and type(value) is int:
        return float(value)
    if hint is float:
        return value if type(value) is float and math.isfinite(value) else _INVALID
    if hint is str and type(value) is str and not is_unicode(value):
        return _INVALID
    if hint in (bool, int, str):
        return value if type(value) is hint else _INVALID
    return value if isinstance(value, hint) else _INVALID


def _converted_list(value: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _INVALID
    hints = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
    if len(hints) != len(value):
        return _INVALID
    found = tuple(_converted(item, hint) for item, hint in zip(value, hints, strict=True))
    return _INVALID if any(item is _INVALID for item in found) else found


def is_unicode(text: str) -> bool:
    """Return True if `text` can be written as UTF-8; other bytes of an argument arrive as lone surrogates."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def show(value: Any) -> str:
    """Return a value as an error shows it: printable, on one line, shortened."""
    if type(value) is int and abs(value) > MAX_INT:
        return "a number of more than 64 bits"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        note = "" if is_unicode(value) else " (not UTF-8)"
        return one_line(shortened(f'"{value}"') + note)
    try:
        return one_line(shortened(value.isoformat() if hasattr(value, "isoformat") else repr(value)))
    except (ValueError, RecursionError):  # thousands of digits, or tables in tables in tables
        return f"a {type(value).__name__} that is too large to show"
