"""What all commands share: --config, --print-config, overrides, and how errors reach the user.

The only reader of TOML. It imports neither torch nor numpy, so that help and mistakes are answered
at once; a command imports its heavy parts inside the function that it gives to `run_command`.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import tomllib
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from transformerlm.errors import ConfigError, TransformerLMError
from transformerlm.logging.terminal import silence
from transformerlm.schema import (
    SchemaError,
    Section,
    describe,
    field_docs,
    field_types,
    from_dict,
    is_section,
    merge,
    to_toml,
    unknown,
)

C = TypeVar("C", bound=Section)

Mode = Callable[[Any], int | None] | Callable[[Any, int], int | None]
"""What an option has a command do in place of its usual work: a function of the config, or of the config
and of the whole number, at least 1, behind the option (whose name in the function's signature help shows)."""

FLAGS = {"--print-config": "print_config", "--debug": "debug", "--help": "help", "-h": "help"}
"""Options that take no value, and their names in Arguments."""
EXIT_STATUSES = """exit status:
  0 done   1 failed otherwise   2 config or argument   3 corpus, tokenizer or token file   4 checkpoint
  6 loss or gradient not finite   74 disk or other input/output   75 folder in use by another process
  130, 143 interrupted (Ctrl-C, SIGTERM)"""


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

    `shortcuts` maps a short option to the key it stands for: {"resume": "training.resume"}; `modes` an
    option to what is run in place of `function`.
    Errors of the user's making are printed to stderr, one line each, without a traceback.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    shortcuts, modes = shortcuts or {}, modes or {}
    try:
        arguments = parse_arguments(argv, shortcuts, modes)
        if arguments.help:
            print(help_text(config_class, description, shortcuts, modes))
            return 0
        config = load_config(config_class, arguments)
        if arguments.print_config:
            print(to_toml(config, documented=True), end="")
            return 0
        return _call(modes.get(arguments.mode, function), config, arguments) or 0
    except (TransformerLMError, OSError, KeyboardInterrupt) as error:
        return report(error, debug="--debug" in argv)


def report(error: BaseException, *, debug: bool) -> int:
    """Print what went wrong for the user, and return the exit status that says it to a script."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    if isinstance(error, BrokenPipeError):  # the reader of stdout has left, as in `... | head`
        silence(sys.stdout)
        return 0
    if isinstance(error, TransformerLMError):
        print("\n".join(error.lines), file=sys.stderr)
        return error.exit_status
    print(f"error: {error}", file=sys.stderr)
    return 74


def _call(mode: Mode, config: Section, arguments: Arguments) -> int | None:
    if not value_name(mode):
        return mode(config)  # type: ignore[call-arg]
    number = _literal(arguments.mode_value)
    if type(number) is not int or number < 1:
        what = f"expected a whole number of at least 1, got {arguments.mode_value}"
        raise ConfigError(f"command line: --{arguments.mode}: {what}")
    return mode(config, number)  # type: ignore[call-arg]


def value_name(mode: Mode) -> str:
    """What a mode calls the number that it takes behind its option; "" where it takes none."""
    _, *others = inspect.signature(mode).parameters
    return "".join(others)


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
            arguments.overrides = merge(arguments.overrides, nested(shortcuts.get(name, name), value))
    if problems:
        raise ConfigError(problems)
    return arguments


def nested(dotted: str, value: Any) -> dict[str, Any]:
    """`nested("a.b", 1)` is `{"a": {"b": 1}}`."""
    for part in reversed(dotted.split(".")):
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
        file = str(arguments.config_path or "defaults")
        lines = [p.line("command line" if _holds(overrides, p.path) else file) for p in error.problems]
        raise ConfigError(lines) from None


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as nested dictionaries; ConfigError in one line where it cannot be read."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: expected a TOML file, got: {error.strerror}") from None


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
            result[key] = value if hint is None else parse_value(value, hint)
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
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def help_text(
    config_class: type[Section],
    description: str,
    shortcuts: Mapping[str, str],
    modes: Mapping[str, Mode],
) -> str:
    """What --help prints: the options, then every key with its default, type and meaning."""
    lines = [description, "", "options:", "  --config FILE.toml      read the config from a file"]
    lines += ["  --print-config          print the resolved config as TOML, and do nothing else"]
    lines += ["  --debug                 show the traceback of an error"]
    lines += [f"  --{short:<21} short for --{key}" for short, key in shortcuts.items()]
    for name, function in modes.items():
        summary, _, _ = (function.__doc__ or "").partition("\n")
        lines.append(f"  --{f'{name} {value_name(function).upper()}':<21} {summary}")
    lines += ["  --SECTION.KEY=VALUE     override any key of the config", "", EXIT_STATUSES, ""]
    for table, section in field_types(config_class).items():
        defaults = section()
        lines += [f"[{table}]"]
        for key, hint in field_types(section).items():
            lines += [f"  {key} = {getattr(defaults, key)!r}    ({describe(hint)})"]
            lines += [f"      {line}" for line in field_docs(section)[key].splitlines()]
        lines += [""]
    return "\n".join(lines)


__all__ = ["Arguments", "load_config", "parse_arguments", "read_toml", "report", "run_command"]
