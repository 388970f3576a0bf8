"""Config sections: dataclasses with checked values, read from and written to plain dictionaries.

This module is independent of language models: `transformerlm.config` has the keys, and `values` the types of
single values. A section is a frozen dataclass whose fields carry their range in their type:

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Optimizer(Section):
        lr: PositiveFloat = 1e-3
        "Peak learning rate."

Every value is checked on construction, wherever it comes from, and all problems of a section are reported,
not only the first.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, TypeGuard, TypeVar, cast

from transformerlm.errors import ConfigError, Key, Problem, one_line
from transformerlm.schema.values import convert, is_automatic, show

S = TypeVar("S", bound="Section")


class SchemaError(ConfigError):
    """Values that do not fit their section; every problem carries its key."""


class UnknownKeyError(SchemaError, TypeError):
    """An argument that a section does not have: also a TypeError, as for any other call."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A table of a config: a frozen dataclass whose values are checked against their types.

    Raises:
        SchemaError: on construction, with every problem found.
        UnknownKeyError: for a key that the section does not have.
    """

    def __new__(cls, *args: Any, **values: Any) -> Self:
        """Refuse unknown keys with a suggestion, before the constructor would refuse them without one."""
        known = [field.name for field in dataclasses.fields(cls)]
        if wrong := [name for name in values if name not in known]:
            raise UnknownKeyError([Problem(Key(name), unknown(name, known), cls.__name__) for name in wrong])
        return object.__new__(cls)

    def __post_init__(self) -> None:
        problems = []
        for name, hint in field_types(type(self)).items():
            value, what = convert(getattr(self, name), hint)
            if what:
                problems.append(Problem(Key(name), what))
            else:
                object.__setattr__(self, name, value)
        # Rules between values make sense only where each value is valid by itself.
        problems = problems or list(self.conflicts())
        if problems:
            name = type(self).__name__
            raise SchemaError([Problem(key, one_line(what), name) for key, what, _ in problems])

    def automatic(self) -> list[Key]:
        """Return the keys whose value is "auto" and has to be chosen, those of inner tables included."""
        found = []
        for name, hint in field_types(type(self)).items():
            value = getattr(self, name)
            if isinstance(value, Section):
                found += [Key(name, *key) for key in value.automatic()]
            elif is_automatic(value, hint):
                found.append(Key(name))
        return found

    def conflicts(self) -> Iterator[Problem]:
        """Yield problems between values that are each valid by themselves. A section overrides this, and
        leaves out those that are "auto"."""
        yield from ()


def field_types(section: type[Section]) -> dict[str, Any]:
    """Return the annotation of every field by its name, ranges included."""
    return dict(_field_types(cast(Any, section)))


@functools.cache
def _field_types(section: type[Section]) -> dict[str, Any]:
    hints = typing.get_type_hints(section, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(section)}


def is_section(hint: Any) -> TypeGuard[type[Section]]:
    """Return True if an annotation is a nested table."""
    return isinstance(hint, type) and issubclass(hint, Section)


def item_section(hint: Any) -> type[Section] | None:
    """Return the section of an array of tables, `tuple[S, ...]` or `tuple[S, ...] | None`; else None."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(filter(None, map(item_section, typing.get_args(hint))), None)
    item = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None
    return item if is_section(item) else None


def tables(config_class: type[Section]) -> dict[str, type[Section]]:
    """Return the sections that a command's config is made of, by the name of their table."""
    return {name: hint for name, hint in field_types(config_class).items() if is_section(hint)}


def from_dict(section: type[S], values: Mapping[str, Any], source: str = "config") -> S:
    """Build a config from nested plain dictionaries, such as a parsed TOML file.

    Raises:
        SchemaError: with one line per problem: `source: [table].key: expected ..., got ...`.
    """
    config, problems = _build(section, values, Key())
    if config is None:
        homes = _tables_of_keys(section)
        raise SchemaError([_with_hint(problem, homes)._replace(source=source) for problem in problems])
    return config


class _UnknownKey(Problem):
    """A key that its table does not have."""

    __slots__ = ()


def _build(section: type[S], values: Any, key: Key) -> tuple[S | None, list[Problem]]:
    if not isinstance(values, Mapping):
        return None, [Problem(key, f"expected a table, got {show(values)}")]
    hints = field_types(section)
    problems: list[Problem] = [
        _UnknownKey(Key(*key, name), unknown(name, hints)) for name in values if name not in hints
    ]
    arguments: dict[str, Any] = {}
    for name in (name for name in values if name in hints):
        if is_section(hints[name]):
            arguments[name], found = _build(hints[name], values[name], Key(*key, name))
            problems += found
        elif (item := item_section(hints[name])) and isinstance(values[name], list | Mapping):
            arguments[name], found = _build_items(item, values[name], Key(*key, name))
            problems += found
        else:
            arguments[name] = values[name]
    if any(_is_unbuilt(hints[name], value, values[name]) for name, value in arguments.items()):
        return None, problems  # a table within could not be built: its problems say why
    try:
        built = section(**arguments)
    except SchemaError as error:
        return None, problems + [Problem(Key(*key, *inner.key), inner.what) for inner in error.problems]
    return (None if problems else built), problems


def _is_unbuilt(hint: Any, built: Any, value: Any) -> bool:
    """Return True if a table, or an array of them, has problems."""
    return built is None and (is_section(hint) or (value is not None and item_section(hint) is not None))


def _build_items(
    section: type[S], values: list[Any] | Mapping[str, Any], key: Key
) -> tuple[tuple[S, ...] | None, list[Problem]]:
    """Build an array of tables from a list, or from a table whose keys are the numbers 0, 1, ..."""
    if isinstance(values, Mapping):
        numbers = [str(number) for number in range(len(values))]
        if set(values) != set(numbers):
            is_numbered = any(name.isdigit() for name in values)
            expected = f"tables with the numbers {', '.join(numbers)}" if is_numbered else "a list of tables"
            header = "" if is_numbered else f", each below [[{'.'.join(key)}]]"
            return None, [Problem(key, f"expected {expected}{header}, got {', '.join(sorted(values))}")]
        values = [values[number] for number in numbers]
    built = [_build(section, value, Key(*key, str(number))) for number, value in enumerate(values)]
    problems = [problem for _, found in built for problem in found]
    return None if problems else tuple(item for item, _ in built if item is not None), problems


def _tables_of_keys(config_class: type[Section]) -> dict[str, list[str]]:
    """Return for every key the tables that have one of that name."""
    found: dict[str, list[str]] = {}
    for table, section in tables(config_class).items():
        for name in field_types(section):
            found.setdefault(name, []).append(table)
    return found


def _with_hint(problem: Problem, homes: Mapping[str, list[str]]) -> Problem:
    """Point to the one other table that has an unknown key."""
    if isinstance(problem, _UnknownKey) and len(found := homes.get(problem.key[-1], [])) == 1:
        return Problem(problem.key, f'unknown key; did you mean "{Key(found[0], problem.key[-1])}"?')
    return problem


def unknown(name: str, known: Iterable[str], kind: str = "key") -> str:
    """Return `unknown key; did you mean ...?`, or the known names if none is similar."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"known here: {', '.join(names)}"
    return f"unknown {kind}; {hint}"


def to_dict(config: Section) -> dict[str, Any]:
    """Return nested plain dictionaries that `from_dict` and a TOML writer take; None values are left out."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Section):
            result[field.name] = to_dict(value)
        elif value is not None:
            result[field.name] = [*map(_plain, value)] if isinstance(value, tuple) else value
    return result


def _plain(value: Any) -> Any:
    return to_dict(value) if isinstance(value, Section) else value


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` overridden by the values of `above`, table by table.

    A table with numbers for keys overrides the items of a list; the result is such a table.
    """
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, list) and isinstance(value, Mapping):
            old = {str(number): item for number, item in enumerate(old)}
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def field_docs(section: type[Section]) -> dict[str, str]:
    """Return the docstring under each field by the field's name, those of base sections included."""
    docs: dict[str, str] = {}
    for base in reversed(section.__mro__):
        body = _class_bodies(base.__module__).get(base.__name__, []) if is_section(base) else []
        for statement, after in itertools.pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                docs[statement.target.id] = _string(after)
    return docs


@functools.cache
def _class_bodies(module: str) -> dict[str, list[ast.stmt]]:
    # Python keeps no docstrings of fields: they are read from the source, once per module.
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}


def _string(statement: ast.stmt) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return inspect.cleandoc(str(statement.value.value))
    return ""
