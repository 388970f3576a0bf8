"""How a dataclass becomes a config: checked values, plain dictionaries in and out, docs per field.

It knows nothing of language models: `config.py` holds the knobs themselves. `values.py` is about a single
value. A section is a frozen dataclass whose fields carry their range in their type:

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Optimizer(Section):
        lr: PositiveFloat = 1e-3

Every value is checked on construction, from wherever it comes, and every problem of a section is
reported, not only the first.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import sys
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard, TypeVar

from transformerlm.errors import ConfigError
from transformerlm.schema.values import (
    FilePath,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    NumThreads,
    PositiveFloat,
    PositiveInt,
    Probability,
    Text,
    convert,
    describe,
    one_line,
    shortened,
    show,
)

S = TypeVar("S", bound="Section")


class Problem(typing.NamedTuple):
    """One thing that is wrong with a config: where, and what."""

    path: tuple[str, ...]
    """The key and the tables around it, outermost first."""
    what: str
    """`expected ..., got ...`, or another half sentence."""

    def line(self, source: str) -> str:
        """`FILE: [table].key: expected ..., got ...`, ready to print."""
        *tables, key = self.path or ("",)
        place = "".join(f"[{shortened(table)}]." for table in tables) + shortened(key)
        return one_line(f"{source}: {place}: {self.what}")


class SchemaError(ConfigError):
    """What is wrong with a config, kept as problems so that a loader can add file and table."""

    def __init__(self, problems: list[Problem], source: str = "config") -> None:
        self.problems = problems
        super().__init__([problem.line(source) for problem in problems])


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A table of a config: a frozen dataclass whose values are checked against their types.

    Raises:
        SchemaError: on construction, with every problem found.
    """

    def __post_init__(self) -> None:
        problems = []
        for name, hint in field_types(type(self)).items():
            value, what = convert(getattr(self, name), hint)
            if what:
                problems.append(Problem((name,), what))
            else:
                object.__setattr__(self, name, value)
        # Rules between values make sense only where each value is sound by itself.
        problems = problems or list(self.conflicts())
        if problems:
            raise SchemaError(problems, type(self).__name__)

    def conflicts(self) -> Iterator[Problem]:
        """Problems between values that are each sound by themselves. A section overrides this."""
        yield from ()


def field_types(section: type[Section]) -> dict[str, Any]:
    """Name -> annotation of every field, ranges kept."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(section)}


def is_section(hint: Any) -> TypeGuard[type[Section]]:
    """Whether an annotation is a nested table."""
    return isinstance(hint, type) and issubclass(hint, Section)


def from_dict(section: type[S], values: Mapping[str, Any], source: str = "config") -> S:
    """Build a config from nested plain dictionaries, such as a parsed TOML file.

    Raises:
        SchemaError: with one line per problem: `source: [table].key: expected ..., got ...`.
    """
    config, problems = _build(section, values, ())
    if config is None:
        raise SchemaError(problems, source)
    return config


def _build(section: type[S], values: Any, path: tuple[str, ...]) -> tuple[S | None, list[Problem]]:
    if not isinstance(values, Mapping):
        return None, [Problem(path, f"expected a table, got {show(values)}")]
    hints = field_types(section)
    problems = [Problem((*path, key), unknown(key, hints)) for key in values if key not in hints]
    arguments: dict[str, Any] = {}
    for key in (key for key in values if key in hints):
        if is_section(hints[key]):
            arguments[key], found = _build(hints[key], values[key], (*path, key))
            problems += found
        else:
            arguments[key] = values[key]
    if any(is_section(hints[key]) and value is None for key, value in arguments.items()):
        return None, problems  # a table within could not be built: its problems say why
    try:
        built = section(**arguments)
    except SchemaError as error:
        problems += [Problem((*path, *problem.path), problem.what) for problem in error.problems]
        return None, problems
    return (None if problems else built), problems


def unknown(key: str, known: typing.Iterable[str]) -> str:
    """`unknown key; did you mean ...?`, or what there is where nothing is near."""
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"known here: {', '.join(names)}"
    return f"unknown key; {hint}"


def to_dict(config: Section) -> dict[str, Any]:
    """Nested plain dictionaries that `from_dict` and a TOML writer take; a key that is None is left out."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Section):
            result[field.name] = to_dict(value)
        elif value is not None:
            result[field.name] = list(value) if isinstance(value, tuple) else value
    return result


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above` laid over it, table by table."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def field_docs(section: type[Section]) -> dict[str, str]:
    """Name -> the string written under each field, those of base sections included."""
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


def to_toml(config: Section, *, documented: bool = False) -> str:
    """The config as TOML that `from_dict` reads back to an equal one; optionally with each key's doc.

    A key that is None cannot be written in TOML; it appears as a comment where docs are asked for.
    """
    import tomli_w

    if not documented:
        return tomli_w.dumps(to_dict(config))
    lines = []
    for table, section in ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config)):
        lines += [f"[{table}]"]
        for key, doc in field_docs(type(section)).items():
            value = to_dict(section).get(key)
            lines += [f"# {line}" for line in doc.splitlines()]
            lines += [f"# {key} = None"] if value is None else [tomli_w.dumps({key: value}).rstrip()]
        lines += [""]
    return "\n".join(lines)


__all__ = [
    "FilePath",
    "Fraction",
    "NonNegativeFloat",
    "NonNegativeInt",
    "NumThreads",
    "PositiveFloat",
    "PositiveInt",
    "Probability",
    "Problem",
    "SchemaError",
    "Section",
    "Text",
    "describe",
    "field_docs",
    "field_types",
    "from_dict",
    "is_section",
    "merge",
    "one_line",
    "to_dict",
    "to_toml",
    "unknown",
]
