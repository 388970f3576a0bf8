"""The completion script for fish, from version 3 on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformerlm.cli.completion.words import CommandWords, in_one_line
from transformerlm.cli.interface import ListedOption

FUNCTIONS = r"""
# True if a command of one of these names is being typed: transformerlm-NAME, or transformerlm NAME.
function __transformerlm_runs
    set -l typed (commandline -opc)
    set -l program (string replace -r '.*/' '' -- $typed[1])
    contains -- $program transformerlm-$argv; and return 0
    test "$program" = transformerlm; and set -q typed[2]; and contains -- $typed[2] $argv
end

# True if the part $argv[2] of the command $argv[1] is being typed: transformerlm-data inspect.
function __transformerlm_runs_part
    set -l typed (commandline -opc)
    set -l program (string replace -r '.*/' '' -- $typed[1])
    if test "$program" = transformerlm
        set -e typed[1]
        set program transformerlm-$typed[1]
    end
    test "$program" = transformerlm-$argv[1]; and set -q typed[2]; and test $typed[2] = $argv[2]
end

function __transformerlm_needs_command
    test (count (commandline -opc)) -eq 1
end
"""
FIRST = "complete -c transformerlm -n __transformerlm_needs_command"


def script(commands: Sequence[CommandWords], made_by: str) -> str:
    """Return the script for these commands.

    Args:
        made_by: what made the script, for its first line.
    """
    lines = [
        f"# fish completion {made_by}",
        FUNCTIONS.strip("\n"),
        "complete -c transformerlm -f",
        f"{FIRST} -l help -d 'show the commands'",
        f"{FIRST} -l version -d 'show the versions of this package, Python and torch, and the kernels'",
        *(line for words in commands for line in _command(words)),
    ]
    return "\n".join(lines) + "\n"


def _command(words: CommandWords) -> Iterator[str]:
    command = words.command
    yield f"{FIRST} -a {command.name} -d {_quoted(command.summary)}"
    if command.has_program:
        yield f"complete -c {command.program} -f"
    programs = ["transformerlm", *([command.program] if command.has_program else [])]
    yield from _following(words, programs, f"__transformerlm_runs {' '.join(command.names)}")
    for part in words.parts:
        yield from _following(part, programs, f"__transformerlm_runs_part {part.command.name}")


def _following(words: CommandWords, programs: Sequence[str], condition: str) -> Iterator[str]:
    """Yield the options and words that follow where a condition holds."""
    start = " ".join(["complete", *(f"-c {program}" for program in programs), "-n", _quoted(condition)])
    for option in words.options:
        if "=" not in option.name:  # --help=all is a value of --help here
            yield f"{start} {_option(option)}"
    for word in words.arguments:
        yield f"{start} -F" if word.startswith("*") else f"{start} -a {word}"


def _option(option: ListedOption) -> str:
    parts = ["-l", option.name.removeprefix("--")]
    words = " ".join(option.choices)
    if option.name == "--help":
        words = "all"
    elif option.placeholder:
        parts.append("-rF" if option.files else "-x")
    if words:
        parts += ["-a", _quoted(words)]
    return " ".join([*parts, "-d", _quoted(in_one_line(option.summary))])


def _quoted(text: str) -> str:
    """Return text in single quotes, in which fish reads a backslash before a backslash or a quote."""
    return "'" + text.replace("\\", "\\\\").replace("'", r"\'") + "'"
