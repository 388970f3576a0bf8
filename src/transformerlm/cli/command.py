"""A command and its frame: parse the command line, load the config, do the work, report errors.

Imports neither torch nor numpy, so that help and errors appear at once; a command imports heavy modules
inside the function that does its work.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Generic, TypeVar

from transformerlm.cli.arguments import (
    COMMAND_LINE,
    Arguments,
    ArgumentsError,
    Mode,
    Option,
    parse_arguments,
    parse_literal,
    typed,
)
from transformerlm.cli.error_report import report
from transformerlm.cli.help import help_text, options_as_json
from transformerlm.cli.interface import Automatic, Interface
from transformerlm.cli.meant import with_command_meant
from transformerlm.cli.program import program_name
from transformerlm.cli.standard_streams import prepare_streams, print_text
from transformerlm.errors import ConfigError, Key, Problem, TransformerLMError, one_line
from transformerlm.kernels.environment import check_environment
from transformerlm.kernels.threads import sleep_soon
from transformerlm.logging.terminal import say
from transformerlm.schema import SchemaError, Section, from_dict, merge, read_toml, to_toml
from transformerlm.signals import interrupts_noted

LEAK_CHECKER = "triton"
"""Package that, where garbage is left at the end of the process, lists its own on stderr as leaks."""
C = TypeVar("C", bound=Section)
Defaults = Callable[[C], Mapping[str, Any]]
"""Values for keys that neither the command line nor the file sets, found with the help of those that they
do set; nested as in TOML."""


@dataclass(frozen=True)
class Command(Interface, Generic[C]):
    """A command: what it can be given (`Interface`), and what it does with that.

    Args:
        config_class: see `Interface`, as for all that is not named here.
        work: does the command's work; returns the exit status, None for 0.
        program: its name in messages, where it is not as the user typed it.
        defaults: takes precedence over the defaults of `config_class`; see `load_config`.
        resolve: called for `--print-config`: finds what `work` would find for keys that are "auto".
        wait: called before `work`: chooses how threads of PyTorch will wait.
    """

    config_class: type[C]
    work: Callable[[C], int | None]
    _: KW_ONLY
    program: str = ""
    defaults: Defaults[C] | None = None
    resolve: Callable[[C], C] | None = None
    wait: Callable[[], None] = sleep_soon


def run_command(command: Command[C], argv: Sequence[str] | None = None) -> int:
    """Parse the command line, do what it asks for, and return the exit status.

    Errors that the user can correct are printed to stderr, one line each, without a traceback.

    Args:
        argv: the arguments; None: those of this process.
    """
    is_process = argv is None
    prepare_streams(restart=is_process)
    argv = sys.argv[1:] if argv is None else list(argv)
    with interrupts_noted() as interrupts:
        try:
            program = program_name(command.program, is_process)
            status = _answer(command, parse(argv, command, program), program)
            print_text()
        except (TransformerLMError, OSError, KeyboardInterrupt) as error:
            return report(error, debug="--debug" in argv)
        except Exception:
            if not interrupts:
                raise
            # Ctrl-C arrived inside a library, which turned it into another exception.
            return report(KeyboardInterrupt(), debug="--debug" in argv)
    if is_process and LEAK_CHECKER not in sys.modules:
        gc.freeze()  # no search for garbage at the end of the process, which takes half a second
    return status


def parse(argv: Sequence[str], interface: Interface, program: str) -> Arguments:
    """Parse a command line; an error names the command that was meant where that can be told.

    Raises:
        ConfigError: see `parse_arguments`.
    """
    try:
        return parse_arguments(argv, interface.options, interface.modes, interface.positional)
    except ArgumentsError as error:
        raise with_command_meant(error, argv, interface, program) from None


def _answer(command: Command[C], arguments: Arguments, program: str) -> int:
    """Print what is asked for in place of the command's work, or do the work; return the exit status."""
    if text := _information(command, arguments, program):
        print_text(text)
        return 0
    try:
        config = load_config(command.config_class, arguments, command.defaults, command.automatic)
        for note in arguments.notes:
            say(one_line(note))
        check_environment()
        if arguments.print_config:
            print_text(to_toml(command.resolve(config) if command.resolve else config, documented=True))
            return 0
        command.wait()
        return _work(command, config, arguments) or 0
    except TransformerLMError as error:
        error.problems = [_located(problem, arguments) for problem in error.problems]
        raise


def _information(command: Interface, arguments: Arguments, program: str) -> str:
    """Return the text that is asked for in place of the command's work; "": none is."""
    if arguments.help or arguments.help_all:
        return help_text(command, program, every=arguments.help_all)
    if arguments.version:
        from transformerlm.cli.version import version_text

        return version_text()
    return options_as_json(command) if arguments.print_options else ""


def _work(command: Command[C], config: C, arguments: Arguments) -> int | None:
    mode = arguments.mode
    if mode is None:
        return command.work(config)
    if not mode.number:
        return mode.function(config)  # type: ignore[call-arg]
    number = parse_literal(arguments.number)
    if type(number) is not int or number < 1:
        what = f"expected a whole number of at least 1, got {arguments.number}"
        raise ConfigError([Problem(Key(), f"--{mode.name}: {what}", source=COMMAND_LINE)])
    return mode.function(config, number)  # type: ignore[call-arg]


def load_config(
    config_class: type[C],
    arguments: Arguments,
    defaults: Defaults[C] | None = None,
    automatic: Automatic | None = None,
) -> C:
    """Build a config from the command line, the file, and the defaults, in this order of precedence.

    Args:
        defaults: called with the config as the command line and the file alone make it; what it returns goes
            below them, and above the defaults of `config_class`.
        automatic: called with what the command line and the file set; returns that and what goes with it.

    Raises:
        ConfigError: with one line for every problem, each naming the file or the command line.
    """
    file_values = read_toml(arguments.config_path) if arguments.config_path else {}
    given = merge(file_values, typed(arguments.overrides, config_class))
    given = automatic(given) if automatic else given
    try:
        config = from_dict(config_class, given, source="")
        return from_dict(config_class, merge(defaults(config), given), source="") if defaults else config
    except SchemaError as error:
        raise ConfigError([_located(problem, arguments) for problem in error.problems]) from None


def _located(problem: Problem, arguments: Arguments) -> Problem:
    """Add where the key of a problem was set, unless it is known already."""
    if not problem.key or problem.source:
        return problem
    return problem._replace(source=arguments.source_of(problem.key))


__all__ = [
    "Arguments",
    "Command",
    "Mode",
    "Option",
    "load_config",
    "parse_arguments",
    "report",
    "run_command",
]
