"""What all commands share: --config, --print-config, overrides, and how errors reach the user.

The only reader of TOML. It imports neither torch nor numpy, so that help and mistakes are answered
at once; a command imports its heavy parts inside the function that it gives to `run_command`.
"""

from __future__ import annotations

import ast
import codecs
import dataclasses
import re
import sys
import tomllib
import types
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from transformerlm.cli.error_report import report
from transformerlm.cli.help import Mode, help_text, value_name
from transformerlm.cli.standard_streams import print_text, ready_streams
from transformerlm.errors import ConfigError, TransformerLMError
from transformerlm.kernels.threads import sleep_soon
from transformerlm.schema import (
    Problem,
    SchemaError,
    Section,
    field_types,
    from_dict,
    is_section,
    merge,
    to_toml,
    unknown,
)
from transformerlm.signals import interrupts_noted

C = TypeVar("C", bound=Section)

FLAGS = {"--print-config": "print_config", "--debug": "debug", "--help": "help", "-h": "help"}
"""Options that take no value, and their names in Arguments."""

LARGEST_CONFIG_BYTES = 1_000_000
"""A larger file is a mistake, such as the corpus or the weights in the config's place."""


@dataclasses.dataclass
class Arguments:
    """A command line, taken apart but not yet judged."""

    config_path: Path | None = None
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Nested as in TOML; values are still text."""
    print_config: bool = False
    debug: bool = False
    help: bool = False
    mode: str = ""
    """Which of the command's modes; "": its usual one."""
    mode_value: str = ""
    """The value behind a mode that takes one, still text."""


def run_command(
    config_class: type[C],
    function: Callable[[C], int | None],
    *,
    description: str,
    shortcuts: Mapping[str, str] | None = None,
    modes: Mapping[str, Mode] | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the command line, build the config, run `function(config)`; the exit status comes back.

    `shortcuts` maps a short option to the key it stands for: {"resume": "training.resume"}, or to several
    with a space between, for values one after the other; a "+" behind a key has it take a list, of one item
    each time that the option is given. `modes` maps an option to what is run in place of `function`.
    Errors of the user's making are printed to stderr, one line each, without a traceback.
    """
    sleep_soon()
    ready_streams(restart=argv is None)
    argv = sys.argv[1:] if argv is None else list(argv)
    shortcuts, modes = shortcuts or {}, modes or {}
    arguments = Arguments()
    with interrupts_noted() as interrupts:
        try:
            arguments = parse_arguments(argv, shortcuts, modes)
            if arguments.help:
                print_text(help_text(config_class, description, shortcuts, modes))
                return 0
            config = load_config(config_class, arguments)
            if arguments.print_config:
                print_text(to_toml(config, documented=True))
                return 0
            status = _call(modes.get(arguments.mode, function), config, arguments) or 0
            print_text()
            return status
        except TransformerLMError as error:
            error.lines = [_with_source(line, arguments) for line in error.lines]
            return report(error, debug="--debug" in argv)
        except (OSError, KeyboardInterrupt) as error:
            return report(error, debug="--debug" in argv)
        except Exception:
            if not interrupts:
                raise
            # Ctrl-C came in the midst of a library, which has made something else of it.
            return report(KeyboardInterrupt(), debug="--debug" in argv)


def _call(mode: Mode, config: Section, arguments: Arguments) -> int | None:
    if not value_name(mode):
        return mode(config)  # type: ignore[call-arg]
    number = _literal(arguments.mode_value)
    if type(number) is not int or number < 1:
        what = f"expected a whole number of at least 1, got {arguments.mode_value}"
        raise ConfigError(f"command line: --{arguments.mode}: {what}")
    return mode(config, number)  # type: ignore[call-arg]


def parse_arguments(
    argv: Sequence[str], shortcuts: Mapping[str, str], modes: Mapping[str, Mode] = MappingProxyType({})
) -> Arguments:
    """Take a command line apart.

    Raises:
        ConfigError: for an argument that is no option, an unknown one, or one without its value.
    """
    arguments, problems, rest = Arguments(), [], list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if word in FLAGS:
            setattr(arguments, FLAGS[word], True)
            continue
        takes_value = name in modes and value_name(modes[name])
        if word == f"--{name}" and name in modes and not takes_value:
            arguments.mode = name
            continue
        if not word.startswith("--") or not (name in ("config", *shortcuts) or takes_value or "." in name):
            known = ["--config", *FLAGS, *(f"--{option}" for option in (*shortcuts, *modes))]
            problems.append(f"command line: {word}: {unknown(word, known).replace('key', 'argument')}")
            continue
        if not equals and (not rest or rest[0].startswith("--")):
            problems.append(f"command line: {word}: expected a value after it, got none")
            continue
        value = value if equals else rest.pop(0)
        if takes_value:
            arguments.mode, arguments.mode_value = name, value
        elif name == "config":
            arguments.config_path = Path(value)
        else:
            first, *others = shortcuts.get(name, name).split(" ")
            key = first.removesuffix("+")
            given = [*_items(arguments.overrides, key), value] if key != first else value
            arguments.overrides = merge(arguments.overrides, nested(key, given))
            while others and rest and not rest[0].startswith("--"):
                arguments.overrides = merge(arguments.overrides, nested(others.pop(0), rest.pop(0)))
    if problems:
        raise ConfigError(problems)
    return arguments


def _items(overrides: Mapping[str, Any], dotted: str) -> list[str]:
    """What an option that may be given several times has gathered so far."""
    table, _, key = dotted.partition(".")
    found = overrides.get(table, {}).get(key)
    return found if isinstance(found, list) else []


def nested(dotted: str, value: Any) -> dict[str, Any]:
    """`nested("a.b", 1)` is `{"a": {"b": 1}}`; what no config has is not nested any deeper."""
    for part in reversed(dotted.split(".", 3)):
        value = {part: value}
    return typing.cast(dict[str, Any], value)


def load_config(config_class: type[C], arguments: Arguments) -> C:
    """Defaults, then the file, then the command line.

    Raises:
        ConfigError: with one line for every problem, each naming the file or the command line.
    """
    file_values = read_toml(arguments.config_path) if arguments.config_path else {}
    overrides = typed(arguments.overrides, config_class)
    try:
        return from_dict(config_class, merge(file_values, overrides))
    except SchemaError as error:
        problems = [_with_home(problem, config_class) for problem in error.problems]
        raise ConfigError([p.line(_source(p.path, arguments)) for p in problems]) from None


def _source(path: tuple[str, ...], arguments: Arguments) -> str:
    """Where a key has its value from."""
    return "command line" if _holds(arguments.overrides, path) else str(arguments.config_path or "defaults")


def _with_source(line: str, arguments: Arguments) -> str:
    """`[table].key: ...`, which is found out only later than the config is read, as an error in it."""
    found = re.match(r"\[(\w+)\]\.(\w+): ", line)
    return f"{_source((found[1], found[2]), arguments)}: {line}" if found else line


def _with_home(problem: Problem, config_class: type[Section]) -> Problem:
    """An unknown key that is one of another table is said to be."""
    key = problem.path[-1] if problem.path else ""
    tables = {table: hint for table, hint in field_types(config_class).items() if is_section(hint)}
    homes = [table for table, section in tables.items() if key in field_types(section)]
    if problem.what.startswith("unknown key") and len(homes) == 1:
        return Problem(problem.path, f'unknown key; did you mean "[{homes[0]}].{key}"?')
    return problem


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as nested dictionaries; ConfigError in one line where it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: expected a TOML file, got: {error.strerror}") from None
    except ValueError:  # a NUL in it
        raise ConfigError(f"{path}: expected a TOML file, got no path") from None
    if len(content) > LARGEST_CONFIG_BYTES:
        raise ConfigError(f"{path}: expected a TOML file of at most {LARGEST_CONFIG_BYTES:,} bytes, got more")
    try:
        return tomllib.loads(content.removeprefix(codecs.BOM_UTF8).decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {_fault(error)}") from None


def _fault(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        line = error.object.count(b"\n", 0, error.start) + 1
        return f"expected UTF-8, got byte 0x{error.object[error.start]:02x} (at line {line})"
    if isinstance(error, tomllib.TOMLDecodeError):
        return str(error)
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of thousands of digits"


def _holds(values: Any, path: tuple[str, ...]) -> bool:
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def typed(overrides: Mapping[str, Any], section: type[Section]) -> dict[str, Any]:
    """Overrides with their texts read as the keys' types ask; unknown keys are left for `from_dict`."""
    hints = field_types(section)
    result = {}
    for key, value in overrides.items():
        hint = hints.get(key)
        if isinstance(value, Mapping):
            result[key] = typed(value, hint) if is_section(hint) else value
        else:
            # A list is of texts that are meant as they are.
            result[key] = value if hint is None or isinstance(value, list) else parse_value(value, hint)
    return result


def parse_value(text: str, hint: Any) -> Any:
    """The value that `text` means for a key of this type; the text itself where it means none.

    wandb's agents write values with Python's `str` (True, None, [0.9, 0.99]) and people write them
    as TOML does (true, 3e-4): both are understood.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return parse_value(text, arguments[0])
    if origin in (typing.Union, types.UnionType):
        other = next(part for part in arguments if part is not type(None))
        return None if text in ("None", "none", "null") else parse_value(text, other)
    if hint is str or origin is Literal:
        return text
    if hint is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if origin is tuple and not text.lstrip().startswith("["):
        return [parse_value(text, arguments[0])]
    return _literal(text)


def _literal(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what would be questionable in a program
            return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


__all__ = ["Arguments", "Mode", "load_config", "parse_arguments", "read_toml", "report", "run_command"]
