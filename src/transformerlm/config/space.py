"""The search space of a sweep: keys of a config, each with a list of values or a range.

    [sweep.space]
    "model.num_layers" = [2, 4, 6]
    "optimizer.lr" = { low = 1e-4, high = 1e-2, scale = "log" }
    "optimizer.weight_decay" = { low = 0.0, high = 0.2, num = 3 }

`read_space` checks it against the keys and types of the config before anything runs. A key can also be
written in tables, `optimizer.lr = ...` without the quotes.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from transformerlm.errors import ConfigError, Key, Problem
from transformerlm.schema import Section, field_types, is_section, tables, unknown
from transformerlm.schema.values import convert, show

DIGITS = 4
"""Significant digits of a number that is drawn from a range: a config is read by people."""
MAX_NUM = 10_000
"""Largest number of values of a range in a grid."""
RANGE_KEYS = {"low", "high", "scale", "num"}
SET_BY_THE_SWEEP = {
    "training.run_dir": "each trial has a folder of its own",
    "training.resume": "a trial always goes on",
    "runtime.seed": "[sweep].seeds runs the finalists with several",
}
TABLES_LEFT_OUT = ("sweep", "generation", "logging", "wandb")
"""Tables without keys that a result could depend on."""


@dataclass(frozen=True)
class Choices:
    """A key with a list of values."""

    key: str
    """With its table: "model.num_layers"."""
    values: tuple[Any, ...]

    def at(self, position: float) -> Any:
        """Return the value at a position from 0 to below 1, at which all are equally wide."""
        return self.values[int(position * len(self.values))]

    @property
    def grid(self) -> tuple[Any, ...]:
        """The values of a grid."""
        return self.values

    @property
    def size(self) -> int | None:
        """Number of different values."""
        return len(self.values)


@dataclass(frozen=True)
class Span:
    """A key with a range of numbers, both ends included."""

    key: str
    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"
    num: int | None = None
    """Number of values in a grid, evenly spread on the scale."""
    is_whole: bool = False

    def at(self, position: float) -> Any:
        """Return the number at a position from 0 to below 1 on the scale, rounded to some digits."""
        if self.is_whole:
            found = math.floor(self._between(self.low, self.high + 1, position))
            return min(int(self.high), max(int(self.low), found))  # exp(log(63)) is a little below 63
        return self.rounded(self._between(self.low, self.high, position))

    @property
    def grid(self) -> tuple[Any, ...]:
        """The values of a grid; equal ones, of whole numbers, once."""
        count = self.num or 0
        places = [index / (count - 1) if count > 1 else 0.5 for index in range(count)]
        numbers = [self._between(self.low, self.high, place) for place in places]
        return tuple(dict.fromkeys(round(n) if self.is_whole else self.rounded(n) for n in numbers))

    @property
    def size(self) -> int | None:
        """Number of different values; None: as good as any number."""
        return int(self.high - self.low) + 1 if self.is_whole else None

    def _between(self, low: float, high: float, position: float) -> float:
        if self.scale == "log":
            return math.exp(math.log(low) + position * (math.log(high) - math.log(low)))
        return low + position * (high - low)

    def rounded(self, number: float) -> Any:
        """Return a number of the range with few digits, or as the whole number that it is."""
        if self.is_whole:
            return int(number)
        return float(min(self.high, max(self.low, float(f"{number:.{DIGITS}g}"))))


Axis = Choices | Span
"""One key of a search space."""


def read_space(space: Mapping[str, Any], config_class: type[Section]) -> list[Axis]:
    """Return the keys of a [sweep.space] with their values.

    Args:
        config_class: the config whose keys they are.

    Raises:
        ConfigError: with every problem found, each with its key below [sweep].space.
    """
    axes: list[Axis] = []
    problems: list[Problem] = []
    for name, given in flat(space).items():
        try:
            axes.append(_axis(name, given, config_class))
        except _UnusableError as error:
            problems.append(Problem(Key("sweep", "space", name), str(error)))
    if problems:
        raise ConfigError(problems)
    return axes


def nested(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return `{"model": {"num_layers": 4}}` for `{"model.num_layers": 4}`."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        table, _, key = name.partition(".")
        found.setdefault(table, {})[key] = value
    return found


class _UnusableError(Exception):
    """A key or its values that cannot be used, in words."""


def flat(space: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given for each key of a [sweep.space], named with its table.

    Of a key in both forms the one without quotes counts: the command line, which overrides a file, has it.
    """
    in_quotes = {
        name: given for name, given in space.items() if "." in name or not isinstance(given, Mapping)
    }
    in_tables = {table: own for table, own in space.items() if table not in in_quotes}
    return in_quotes | {
        f"{table}.{key}": given for table, own in in_tables.items() for key, given in own.items()
    }


def _axis(name: str, given: Any, config_class: type[Section]) -> Axis:
    hint = _type_of(name, config_class)
    if isinstance(given, Mapping):
        return _span(name, given, hint)
    if not isinstance(given, list | tuple) or not given:
        example = "{ low = 1, high = 10 }"
        raise _UnusableError(f"expected a list of values, or a range such as {example}, got {show(given)}")
    return Choices(name, tuple(_values(given, hint)))


def _type_of(name: str, config_class: type[Section]) -> Any:
    """Return the type of a key.

    Raises:
        _UnusableError: there is no such key, or it is not one to search over.
    """
    table, _, key = name.partition(".")
    sections = {
        other: section for other, section in tables(config_class).items() if other not in TABLES_LEFT_OUT
    }
    if table in TABLES_LEFT_OUT:
        raise _UnusableError("not a key to search: no result depends on it")
    if table not in sections:
        homes = [f"{other}.{name}" for other, section in sections.items() if name in field_types(section)]
        hint = (
            f'unknown key; did you mean "{homes[0]}"?'
            if len(homes) == 1
            else unknown(table, sections, "table")
        )
        raise _UnusableError(hint)
    hints = {key: hint for key, hint in field_types(sections[table]).items() if not is_section(hint)}
    if key not in hints:
        raise _UnusableError(unknown(key, hints))
    if name in SET_BY_THE_SWEEP:
        raise _UnusableError(f"not a key to search: {SET_BY_THE_SWEEP[name]}")
    return hints[key]


def _values(given: Sequence[Any], hint: Any) -> Iterator[Any]:
    """Yield the values of a list, each checked; "None" stands for None, for which TOML has no word."""
    seen: list[Any] = []
    for one in given:
        value = None if one == "None" and type(None) in get_args(hint) else one
        converted, what = convert(value, hint)
        if what:
            raise _UnusableError(what)
        if converted in seen and type(converted) in map(type, seen):
            raise _UnusableError(f"expected each value once, got {show(one)} twice")
        seen.append(converted)
        yield list(converted) if isinstance(converted, tuple) else converted


def _span(name: str, given: Mapping[str, Any], hint: Any) -> Span:
    if wrong := sorted(given.keys() - RANGE_KEYS):
        raise _UnusableError(f"{wrong[0]}: {unknown(wrong[0], RANGE_KEYS)}")
    numbers = _number_types(hint)
    if not numbers:
        raise _UnusableError("expected a list of values, since this key is no number, got a range")
    if not {"low", "high"} <= given.keys():
        raise _UnusableError(f"expected low and high, got {show(dict(given))}")
    low, high = (_end(given[end], hint, end) for end in ("low", "high"))
    scale, num = given.get("scale", "linear"), given.get("num")
    if not low < high:
        raise _UnusableError(f"expected low below high, got {low} and {high}")
    if scale not in ("linear", "log"):
        raise _UnusableError(f'scale: expected one of "linear", "log", got {show(scale)}')
    if scale == "log" and low <= 0:
        raise _UnusableError(f"low: expected a number above 0 on a logarithmic scale, got {low}")
    if num is not None and (type(num) is not int or not 1 <= num <= MAX_NUM):
        raise _UnusableError(f"num: expected a whole number from 1 to {MAX_NUM:,}, got {show(num)}")
    return Span(name, low, high, scale, num, is_whole=float not in numbers)


def _end(value: Any, hint: Any, end: str) -> float:
    converted, what = convert(value, hint)
    what = what or ("" if isinstance(converted, int | float) else f"expected a number, got {show(value)}")
    if what:
        raise _UnusableError(f"{end}: {what}")
    return typing.cast(float, converted)


def _number_types(hint: Any) -> set[type]:
    """Return those of int and float that a value of this type may be; none for a list of numbers."""
    if typing.get_origin(hint) is tuple:
        return set()
    parts = get_args(hint)
    return set().union(*map(_number_types, parts)) if parts else {hint} & {int, float}
