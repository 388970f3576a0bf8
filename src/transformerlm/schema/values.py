"""The values of a config: what a type allows, in a user's words, and how a value is shown in an error."""

from __future__ import annotations

import math
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

LARGEST = 2**63 - 1
"""Whole numbers end here, as in TOML."""


class Range:
    """A condition on a number and its wording."""

    def __init__(self, text: str, low: float, high: float = math.inf, above_low: bool = False) -> None:
        self.text, self.low, self.high, self.above_low = text, low, high, above_low

    def holds(self, value: float) -> bool:
        """Whether `value` lies between `low` and `high`; `above_low` leaves `low` itself out."""
        return self.low <= value <= self.high and not (self.above_low and value == self.low)


class NotEmpty:
    """Marks a string that must not be empty."""

    text = "text that is not empty"

    def holds(self, value: str) -> bool:
        """Whether there is anything in `value` but white space."""
        return bool(value.strip())


class IsPath(NotEmpty):
    """Marks a string that names a file or folder, whether there is one or not."""

    text = "a path"

    def holds(self, value: str) -> bool:
        """Whether there can be such a file: no system's paths hold a NUL, and `~name/` needs that user."""
        try:
            Path(value).expanduser()
        except RuntimeError:
            return False
        return NotEmpty.holds(self, value) and "\0" not in value


PositiveInt = Annotated[int, Range("a whole number of at least 1", low=1)]
NonNegativeInt = Annotated[int, Range("a whole number of at least 0", low=0)]
PositiveFloat = Annotated[float, Range("a number above 0", low=0, above_low=True)]
NonNegativeFloat = Annotated[float, Range("a number of at least 0", low=0)]
Fraction = Annotated[float, Range("a number from 0 to 1", low=0, high=1)]
Probability = Annotated[float, Range("a number above 0 and at most 1", low=0, high=1, above_low=True)]
NumThreads = Annotated[int, Range("a whole number from 1 to 1024", low=1, high=1024)]
Text = Annotated[str, NotEmpty()]
FilePath = Annotated[str, IsPath()]


def describe(hint: Any) -> str:
    """A type in a user's words: `a number above 0`, `one of "a", "b"`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return str(arguments[1].text)
    if origin is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("nothing (None)" if part is type(None) else describe(part) for part in arguments)
    if origin is tuple and arguments[-1] is ...:
        return f"a list, each {describe(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}, each {describe(arguments[0])}"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return names.get(hint) or f"a table [{hint.__name__}]"


def convert(value: Any, hint: Any) -> tuple[Any, str]:
    """`value` as the type asks for it, and what is wrong with it ('' if nothing).

    Only widening conversions are made: a list to a tuple, an int to a float. True is no number,
    3.7 and "32" are no whole numbers.
    """
    fitted = _fit(value, hint)
    if fitted is _MISFIT:
        return value, f"expected {describe(hint)}, got {show(value)}"
    return fitted, ""


_MISFIT = object()


def _fit(value: Any, hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        fitted = _fit(value, arguments[0])
        return fitted if fitted is not _MISFIT and arguments[1].holds(fitted) else _MISFIT
    if origin is Literal:
        return value if isinstance(value, str) and value in arguments else _MISFIT
    if origin in (typing.Union, types.UnionType):
        return next((fit for part in arguments if (fit := _fit(value, part)) is not _MISFIT), _MISFIT)
    if origin is tuple:
        return _fit_list(value, arguments)
    return _fit_scalar(value, hint)


def _fit_scalar(value: Any, hint: Any) -> Any:
    if type(value) is int and abs(value) > LARGEST:
        return _MISFIT
    if hint is float and type(value) is int:
        return float(value)
    if hint is float:
        return value if type(value) is float and math.isfinite(value) else _MISFIT
    if hint is str and type(value) is str and not _is_unicode(value):
        return _MISFIT
    if hint in (bool, int, str):
        return value if type(value) is hint else _MISFIT
    return value if isinstance(value, hint) else _MISFIT


def _fit_list(value: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _MISFIT
    hints = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
    if len(hints) != len(value):
        return _MISFIT
    fitted = tuple(_fit(item, hint) for item, hint in zip(value, hints, strict=True))
    return _MISFIT if any(item is _MISFIT for item in fitted) else fitted


def _is_unicode(text: str) -> bool:
    """Whether it can be written as UTF-8: an argument of other bytes arrives as lone surrogates."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def show(value: Any) -> str:
    """A value as an error shows it, shortened."""
    if type(value) is int and abs(value) > LARGEST:
        return "a number of more than 64 bits"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        note = "" if _is_unicode(value) else " (not UTF-8)"
        return shortened(f'"{value}"') + note
    try:
        return shortened(value.isoformat() if hasattr(value, "isoformat") else repr(value))
    except (ValueError, RecursionError):  # thousands of digits, or tables in tables in tables
        return f"a {type(value).__name__} that is too large to show"


def shortened(text: str) -> str:
    """A text of at most 80 characters."""
    return text if len(text) <= 80 else text[:77] + "..."


def one_line(text: str) -> str:
    """One line of printable characters, whatever a key, a value or the name of a file holds."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
