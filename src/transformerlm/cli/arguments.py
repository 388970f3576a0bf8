"""Parsing of the command line into a config file, overrides and a mode.

Imports neither torch nor numpy, like everything that runs before a command's work.
"""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from transformerlm.errors import ConfigError, Key, Problem, shortened
from transformerlm.schema import Section, field_types, is_section, item_section, merge, toml, unknown
from transformerlm.schema.values import convert

COMMAND_LINE = "command line"
"""Source, in error messages, of a key that was set on the command line."""
CONFIG = "config"
"""Name of the option for the config file; as the key of a positional word, the word names that file."""


class Flag(typing.NamedTuple):
    """An option of every command that takes no value."""

    field: str
    """Field of Arguments that it sets."""
    summary: str
    """Shown by --help; "": not shown."""


FLAGS = {
    "--help": Flag("help", "show the options and the common keys"),
    "-h": Flag("help", ""),
    "--help=all": Flag("help_all", "show every key"),
    "--version": Flag("version", "show the versions of this package, Python and torch, and the kernels"),
    "--print-config": Flag("print_config", "print the resolved config as TOML, and do nothing else"),
    "--print-options": Flag("print_options", ""),
    "--debug": Flag("debug", "show the traceback of an error"),
}
"""Options of every command that take no value. --print-options prints all options as JSON, for completion."""


@dataclasses.dataclass(frozen=True)
class Option:
    """A short option, `--name VALUE`, for a key of the config; or `--name` alone for one of its values."""

    name: str
    keys: tuple[str, ...]
    """Keys that it sets, such as "export.to"; further values on the command line set the others, in order."""
    repeated: bool = False
    """The key becomes a list with one item per occurrence of the option."""
    value: str = ""
    """Value that the option stands for, such as "json" for `--json`; "": one has to follow it."""


@dataclasses.dataclass(frozen=True)
class Mode:
    """An option, `--name`, that makes a command run another function."""

    name: str
    function: Callable[[Any], int | None] | Callable[[Any, int], int | None]
    """Takes the config, and the option's number if it has one; its docstring is shown by --help."""
    number: str = ""
    """Name of the whole number, at least 1, that must follow the option; "": none."""


@dataclasses.dataclass
class Arguments:
    """A parsed command line, not yet checked against the config."""

    config_path: Path | None = None
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Nested as in TOML; values are still text."""
    print_config: bool = False
    print_options: bool = False
    debug: bool = False
    help: bool = False
    help_all: bool = False
    version: bool = False
    mode: Mode | None = None
    number: str = ""
    """The number that follows the mode, still text."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """Warnings: options that were given more than once, of which the last is used."""

    def source_of(self, key: Key) -> str:
        """Return where a key has its value from: the command line, the file, or "defaults"."""
        values: Any = self.overrides
        for part in ".".join(key).split("."):  # a part may have a dot itself: "optimizer.lr" in [sweep.space]
            if values and isinstance(values, str | list):
                return COMMAND_LINE  # the key is part of a value that was set as a whole
            if not isinstance(values, Mapping) or part not in values:
                return str(self.config_path or "defaults")
            values = values[part]
        return COMMAND_LINE


class ArgumentsError(ConfigError):
    """A command line that cannot be parsed.

    Args:
        problems: as of `ConfigError`.
        unknown: position in the command line of each word that is no option -> position of its problem.
        arguments: what the other words say.
    """

    def __init__(self, problems: Sequence[Problem], unknown: Mapping[int, int], arguments: Arguments) -> None:
        super().__init__(problems)
        self.unknown, self.arguments = dict(unknown), arguments


def parse_arguments(
    argv: Sequence[str],
    options: Sequence[Option] = (),
    modes: Sequence[Mode] = (),
    positional: Option | None = None,
) -> Arguments:
    """Parse a command line.

    Args:
        positional: sets its keys to the words that are no options; None: there must be none.

    Raises:
        ArgumentsError: for a word that is no option, an unknown one, or one without its value.
    """
    return _Parser(argv, options, modes, positional).parse()


class _Parser:
    def __init__(
        self,
        argv: Sequence[str],
        options: Sequence[Option],
        modes: Sequence[Mode],
        positional: Option | None,
    ) -> None:
        self.rest, self.length = list(argv), len(argv)
        self.options = {option.name: option for option in options}
        self.modes = {mode.name: mode for mode in modes}
        self.positional = positional
        self.arguments = Arguments()
        self.problems: list[Problem] = []
        self.unknown: dict[int, int] = {}
        self.given: dict[str, list[str | list[str]]] = {}

    def parse(self) -> Arguments:
        while self.rest:
            self._take(self.rest.pop(0))
        if self.problems:
            raise ArgumentsError(self.problems, self.unknown, self.arguments)
        for name, values in self.given.items():
            if any(value != values[-1] for value in values):
                what = f"given {len(values)} times; the last is used, {shortened(str(values[-1]))}"
                self.arguments.notes.append(f"{COMMAND_LINE}: --{name}: {what}")
        return self.arguments

    def _take(self, word: str) -> None:
        if word == "--help" and self.rest[:1] == ["all"]:
            word = f"{word}={self.rest.pop(0)}"
        name, equals, value = word.removeprefix("--").partition("=")
        mode, option = self.modes.get(name), self.options.get(name)
        if word in FLAGS:
            setattr(self.arguments, FLAGS[word].field, True)
        elif option and option.value and word == f"--{name}":
            self._override(option, option.value)
        elif mode and not mode.number and word == f"--{name}":
            self._choose(mode)
        elif self.positional and not word.startswith("-"):
            self._take_positional(self.positional, word)
        elif not (word.startswith("--") and self._takes_value(name)):
            self.unknown[self.length - len(self.rest) - 1] = len(self.problems)
            shown = [name for name, flag in FLAGS.items() if flag.summary]
            known = ["--config", *shown, *(f"--{option}" for option in (*self.options, *self.modes))]
            self._reject(word, unknown(word, known, "argument"))
        elif not equals and not self._is_value_next():
            self._reject(word, "expected a value after it, got none")
        else:
            self._set(name, value if equals else self.rest.pop(0))

    def _take_positional(self, positional: Option, word: str) -> None:
        if positional.keys == (CONFIG,):
            self._set(CONFIG, word)
        else:
            self._override(positional, word)
        if not positional.repeated:
            self.positional = None

    def _takes_value(self, name: str) -> bool:
        mode, option = self.modes.get(name), self.options.get(name)
        is_short = option is not None and not option.value
        return name == CONFIG or is_short or "." in name or bool(mode and mode.number)

    def _is_value_next(self) -> bool:
        return bool(self.rest) and not self.rest[0].startswith("--")

    def _set(self, name: str, value: str) -> None:
        if name in self.modes:
            self._note(name, value)
            self._choose(self.modes[name])
            self.arguments.number = value
        elif name == CONFIG:
            self._note(name, value)
            self.arguments.config_path = Path(value)
        else:
            self._override(self.options.get(name) or Option(name, (name,)), value)

    def _override(self, option: Option, value: str) -> None:
        first, *others = option.keys
        self._merge(first, [*self._items(first), value] if option.repeated else value)
        for key in others:
            if not self._is_value_next():
                break
            self._merge(key, self.rest.pop(0))

    def _choose(self, mode: Mode) -> None:
        chosen = self.arguments.mode
        if chosen and chosen.name != mode.name:
            self._reject(f"--{mode.name}", f"expected it without --{chosen.name}")
        self.arguments.mode = mode

    def _note(self, name: str, value: str | list[str]) -> None:
        """Remember a value of an option."""
        values = self.given.setdefault(name, [])
        if isinstance(value, list) and len(value) > 1:
            values.pop()  # the list that this one continues
        values.append(value)

    def _merge(self, dotted: str, value: str | list[str]) -> None:
        self._note(dotted, value)
        self._read_list(dotted)
        self.arguments.overrides = merge(self.arguments.overrides, nested(dotted, value))

    def _read_list(self, dotted: str) -> None:
        """Read a list of tables that was given as text, before one of its items is changed."""
        table, key, *item = dotted.split(".", 2)
        given = self.arguments.overrides.get(table, {}).get(key) if item else None
        if isinstance(given, str) and isinstance(found := read_tables(given), list):
            self.arguments.overrides[table][key] = found

    def _items(self, dotted: str) -> list[str]:
        """Return the items of a repeated option so far."""
        table, _, key = dotted.partition(".")
        found = self.arguments.overrides.get(table, {}).get(key)
        return found if isinstance(found, list) else []

    def _reject(self, word: str, what: str) -> None:
        self.problems.append(Problem(Key(), f"{word}: {what}", source=COMMAND_LINE))


def nested(dotted: str, value: Any) -> dict[str, Any]:
    """Return `{"a": {"b": value}}` for "a.b", at most four levels deep, which is deeper than any config."""
    for part in reversed(dotted.split(".", 3)):
        value = {part: value}
    return typing.cast(dict[str, Any], value)


def typed(overrides: Mapping[str, Any], section: type[Section]) -> dict[str, Any]:
    """Return overrides with their texts converted to the types of the keys; unknown keys stay unchanged."""
    hints = field_types(section)
    result: dict[str, Any] = {}
    for key, value in overrides.items():
        hint = hints.get(key)
        if isinstance(value, Mapping) and (item := item_section(hint)):
            items = value.items()
            result[key] = {n: typed(own, item) if isinstance(own, Mapping) else own for n, own in items}
        elif isinstance(value, Mapping):
            result[key] = typed(value, hint) if is_section(hint) else _literals(value)
        else:
            # The items of a list are literal texts.
            is_read = hint is None or not isinstance(value, str)
            result[key] = value if is_read else parse_value(value, hint)
    return result


def _literals(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table whose keys have no types with its texts as the values that they denote."""
    return {
        key: _literals(value) if isinstance(value, Mapping) else parse_literal(value)
        for key, value in values.items()
    }


def parse_value(text: str, hint: Any) -> Any:
    """Return the value that `text` denotes for a key of this type; `text` itself if it denotes none.

    wandb's agents write values with Python's `str` (True, None, [0.9, 0.99], 32.0), users write TOML (true,
    3e-4) or what Python prints ((0.9, 0.99), 'cosine'): all are accepted. Quotes around a value are dropped
    where it is none with them; text keeps them.
    """
    value = _parse(text, hint)
    quoted = text.strip()
    if len(quoted) > 1 and quoted[0] == quoted[-1] and quoted[0] in "'\"" and convert(value, hint)[1]:
        inner = _parse(quoted[1:-1], hint)
        return value if convert(inner, hint)[1] else inner
    return value


def _parse(text: str, hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _parse(text, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return None if text in ("None", "none", "null") else _parse_union(text, arguments)
    if hint is str or origin is Literal:
        return text
    if hint is bool:
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    if origin is tuple:
        return _parse_list(text, arguments[0])
    value = parse_literal(text)
    is_whole = hint is int and type(value) is float and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value


def _parse_union(text: str, parts: Sequence[Any]) -> Any:
    """Return the value of the first type of several that `text` denotes one of, None left out."""
    values = [(_parse(text, part), part) for part in parts if part is not type(None)]
    return next((value for value, part in values if not convert(value, part)[1]), values[0][0])


def _parse_list(text: str, item: Any) -> Any:
    """Return a list from `[a, b]`, `(a, b)`, `a, b` or `a`.

    Texts are in quotes and brackets in all but the last, which is any text: a prompt may have a comma.
    """
    value, start = (read_tables if is_section(item) else parse_literal)(text), text.lstrip()[:1]
    if start == "[":
        return value
    is_text = isinstance(_parse("0", item), str)
    is_quoted = start == "(" and all(isinstance(part, str) for part in value)
    if type(value) is tuple and (is_quoted or not is_text):
        return list(value)
    return [_parse(text, item)]


def read_tables(text: str) -> Any:
    """Return a list of tables in the form of Python, JSON or TOML; `text` itself if it is none."""
    value = parse_literal(text)
    return (toml.parse_value(text) or text) if isinstance(value, str) else value


def parse_literal(text: str) -> Any:
    """Return the value of `text` as a Python literal; `text` itself if it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as those about invalid escapes
            return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
