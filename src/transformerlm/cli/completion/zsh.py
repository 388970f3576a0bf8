"""The completion script for zsh."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformerlm.cli.completion.words import CommandWords, in_one_line
from transformerlm.cli.interface import ListedOption

FUNCTIONS = r"""
# A value: the words after $1, and files that match $1; "": no files.
_transformerlm_value() {
    local files=$1 found=1
    shift
    (( $# )) && compadd -- "$@" && found=0
    [[ -n $files ]] && _files -g "$files" && found=0
    return found
}

_transformerlm() {
    local name=${service#transformerlm-}
    if [[ $service == transformerlm ]]; then
        if (( CURRENT == 2 )); then
            _describe -t commands command _transformerlm_commands
            return
        fi
        name=$words[2]
        shift words
        (( CURRENT-- ))
    fi
    _transformerlm_options_of $name
}
"""


def script(commands: Sequence[CommandWords], made_by: str) -> str:
    """Return the script for these commands.

    Args:
        made_by: what made the script, for its first lines.
    """
    programs = ["transformerlm", *(words.command.program for words in commands if words.command.has_program)]
    lines = [
        f"#compdef {' '.join(programs)}",
        f"# zsh completion {made_by}",
        "_transformerlm_commands=(",
        *(f"    {_quoted(f'{words.command.name}:{words.command.summary}')}" for words in commands),
        "    '--help:show the commands'",
        "    '--version:show the versions of this package, Python and torch, and the kernels'",
        ")",
        "_transformerlm_options_of() {",
        "    case $1 in",
        *(line for words in commands for line in _case(words)),
        "    esac",
        "}",
        FUNCTIONS.strip("\n"),
        # Read by `source`, it registers itself; in a folder of $fpath the first line does.
        "if [[ $zsh_eval_context == *file* ]]; then",
        f"    compdef _transformerlm {' '.join(programs)}",
        "else",
        '    _transformerlm "$@"',
        "fi",
    ]
    return "\n".join(lines) + "\n"


def _case(words: CommandWords) -> Iterator[str]:
    yield f"        {'|'.join(words.command.names)}) _arguments \\"
    specs = [*map(_spec, words.options)]
    if words.arguments:
        specs.append(f":word:({' '.join(words.arguments)})")
    yield " \\\n".join(f"            {_quoted(spec)}" for spec in specs) + " ;;"


def _spec(option: ListedOption) -> str:
    """Return an option as `_arguments` takes it: `*--name=[summary]:PLACEHOLDER:action`."""
    name = option.name.replace("=", r"\=")
    summary = f"[{_escaped(in_one_line(option.summary))}]"
    if not option.placeholder:
        return name + summary
    action = f' _transformerlm_value "{option.files}" {" ".join(option.choices)}'.rstrip()
    has_words = option.files or option.choices
    return f"*{name}={summary}:{_escaped(option.placeholder)}:{action if has_words else ' '}"


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\[]:" else c for c in text)


def _quoted(text: str) -> str:
    """Return text in single quotes."""
    return "'" + text.replace("'", r"'\''") + "'"
