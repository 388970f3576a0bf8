"""The completion script for zsh."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformerlm.cli.completion.words import CommandWords, in_one_line, with_parts
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
    if (( CURRENT > 2 && ${_transformerlm_parts[(Ie)$name $words[2]]} )); then
        name="$name $words[2]"
        shift words
        (( CURRENT-- ))
    fi
    if [[ $PREFIX == -* && $PREFIX != *[.=]* ]]; then
        _transformerlm_first_options_of "$name"
    else
        _transformerlm_options_of "$name"
    fi
}
"""


def script(commands: Sequence[CommandWords], made_by: str) -> str:
    """Return the script for these commands.

    Args:
        made_by: what made the script, for its first lines.
    """
    every, parts = with_parts(commands), [part for words in commands for part in words.parts]
    programs = ["transformerlm", *(words.command.program for words in commands if words.command.has_program)]
    lines = [
        f"#compdef {' '.join(programs)}",
        f"# zsh completion {made_by}",
        "_transformerlm_commands=(",
        *(f"    {_described(words.command.name, words.command.summary)}" for words in commands),
        "    '--help:show the commands'",
        "    '--version:show the versions of this package, Python and torch, and the kernels'",
        ")",
        f"_transformerlm_parts=({' '.join(_quoted(part.command.name) for part in parts)})",
        "_transformerlm_options_of() {",
        "    case $1 in",
        *(line for words in every for line in _case(words)),
        "    esac",
        "}",
        "_transformerlm_first_options_of() {",
        "    local -a flags options tables",
        "    case $1 in",
        *(line for words in every for line in _first_case(words)),
        "    esac",
        "    _describe -o option flags -- options -qS = -- tables -S ''",
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
    yield f"        {_pattern(words)}) _arguments \\"
    specs = [*map(_spec, words.options)]
    if words.arguments:
        files = "".join(word for word in words.arguments if word.startswith("*"))
        others = " ".join(word for word in words.arguments if not word.startswith("*"))
        specs.append(f'*:word: _transformerlm_value "{files}" {others}'.rstrip())
    yield " \\\n".join(f"            {_quoted(spec)}" for spec in specs) + " ;;"


def _first_case(words: CommandWords) -> Iterator[str]:
    """Yield what is offered until a table is named: options by themselves, and each table."""
    single = [option for option in words.options if not option.table]
    tables = dict.fromkeys(option.table for option in words.options if option.table)
    lists = {
        "flags": [_described(option.name, option.summary) for option in single if not option.placeholder],
        "options": [_described(option.name, option.summary) for option in single if option.placeholder],
        "tables": [_described(f"--{table}.", f"the keys of [{table}]") for table in tables],
    }
    yield f"        {_pattern(words)})"
    for name, items in lists.items():
        yield f"            {name}=({' '.join(items)})"
    yield "            ;;"


def _pattern(words: CommandWords) -> str:
    return "|".join(_quoted(name) if " " in name else name for name in words.command.names)


def _described(name: str, summary: str) -> str:
    return _quoted(f"{name}:{in_one_line(summary)}")


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
