"""The completion script for bash, from version 4 on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformerlm.cli.completion.words import CommandWords, with_parts
from transformerlm.cli.interface import ListedOption

FUNCTIONS = r"""
# Where "=" divides words (COMP_WORDBREAKS), --option=value is three words, and only the value is replied.
_transformerlm() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= prefix= option= value=
    _transformerlm_command
    if [[ $COMP_CWORD -eq 1 && -z $command ]]; then
        _transformerlm_reply "$_transformerlm_commands" "$word"
        return
    fi
    if [[ $word == = ]]; then option=$before
    elif [[ $before == = ]]; then option=${COMP_WORDS[COMP_CWORD-2]} value=$word
    elif [[ $word == --*=* ]]; then option=${word%%=*} value=${word#*=} prefix=$option=
    elif [[ $word != -* ]]; then option=$before value=$word
    fi
    local kind; kind=$(_transformerlm_values "$command" "$option")
    local arguments; arguments=$(_transformerlm_arguments "$command")
    if [[ -n $kind ]]; then
        _transformerlm_reply_value "$kind" "$value" "$prefix"
    elif [[ $word == -* || -z $word$arguments ]]; then
        _transformerlm_reply_options "$command" "$word"
    elif [[ -n $arguments && $word != = ]]; then
        _transformerlm_reply_value "$arguments" "$word"
    fi
}

# Sets `command` to what is run: the program's own, or the word after `transformerlm`, with the word after it
# if that starts a part of it.
_transformerlm_command() {
    command=$(_transformerlm_named "${COMP_WORDS[0]##*/}")
    local next=1
    if [[ -z $command && $COMP_CWORD -gt 1 ]]; then
        command=$(_transformerlm_named "transformerlm-${COMP_WORDS[1]}")
        next=2
    fi
    if [[ -n $command && $COMP_CWORD -gt $next ]]; then
        local part; part=$(_transformerlm_part "$command ${COMP_WORDS[next]}")
        command=${part:-$command}
    fi
}

# Reply those of the words $1 that begin with $2, each after $3.
_transformerlm_reply() {
    mapfile -t COMPREPLY < <(compgen -P "$3" -W "$1" -- "$2")
}

# Options: until a table is named, --table. stands for all of its keys.
_transformerlm_reply_options() {
    local words; words=$(_transformerlm_options "$1")
    [[ $2 == --*.* ]] && words=$(_transformerlm_keys "$1")
    _transformerlm_reply "$words" "$2"
    if [[ ${#COMPREPLY[@]} -eq 1 && $COMPREPLY == *. ]]; then  # go on to the keys of the one table
        _transformerlm_reply "$(_transformerlm_keys "$1")" "$COMPREPLY"
    fi
    [[ ${#COMPREPLY[@]} -eq 1 && $COMPREPLY == *= ]] && compopt -o nospace
}

# A value: the words of $1; in place of "*" any file, of "*.toml" such a file or a folder.
_transformerlm_reply_value() {
    local files= words= word all
    read -ra all <<<"$1"
    for word in "${all[@]}"; do
        if [[ $word == \** ]]; then files=$word; else words+=" $word"; fi
    done
    _transformerlm_reply "$words" "$2" "$3"
    [[ -z $files ]] && return
    compopt -o filenames -o default
    if [[ $files == '*' ]]; then
        mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -P "$3" -f -- "$2")
    else
        mapfile -t COMPREPLY < <(compgen -P "$3" -d -- "$2"; compgen -P "$3" -f -X "!$files" -- "$2")
    fi
}
"""


def script(commands: Sequence[CommandWords], made_by: str) -> str:
    """Return the script for these commands.

    Args:
        made_by: what made the script, for its first line.
    """
    every, parts = with_parts(commands), [part for words in commands for part in words.parts]
    names = [words.command.name for words in commands]
    programs = ["transformerlm", *(words.command.program for words in commands if words.command.has_program)]
    lines = [
        f"# bash completion {made_by}",
        f"_transformerlm_commands='{' '.join([*names, '--help', '--version'])}'",
        *_function("_transformerlm_named", "$1", _names(commands)),
        *_function("_transformerlm_part", "$1", {p.command.name: p.command.name for p in parts}),
        *_function("_transformerlm_options", "$1", {w.command.name: _first_words(w) for w in every}),
        *_function("_transformerlm_keys", "$1", {w.command.name: _keys(w) for w in every}),
        *_function("_transformerlm_arguments", "$1", {w.command.name: " ".join(w.arguments) for w in every}),
        *_function("_transformerlm_values", "$1 $2", dict(_values(every))),
        FUNCTIONS.strip("\n"),
        f"complete -F _transformerlm {' '.join(programs)}",
    ]
    return "\n".join(lines) + "\n"


def _function(name: str, subject: str, answers: dict[str, str]) -> Iterator[str]:
    """Yield a function that prints the answer to its arguments. Equal answers share a line."""
    yield f'{name}() {{\n    case "{subject}" in'
    by_answer: dict[str, list[str]] = {}
    for question, answer in answers.items():
        by_answer.setdefault(answer, []).append(question)
    for answer, questions in by_answer.items():
        if answer:
            patterns = "|".join(f"'{question}'" for question in questions)
            yield f"        {patterns}) echo '{answer}' ;;"
    yield "    esac\n}"


def _names(commands: Sequence[CommandWords]) -> dict[str, str]:
    return {f"transformerlm-{name}": w.command.name for w in commands for name in w.command.names}


def _first_words(words: CommandWords) -> str:
    """Return the options without a table, and each table once."""
    firsts = [f"--{option.table}." if option.table else _word(option) for option in words.options]
    return " ".join(dict.fromkeys(firsts))


def _keys(words: CommandWords) -> str:
    return " ".join(_word(option) for option in words.options if option.table)


def _word(option: ListedOption) -> str:
    return f"{option.name}=" if option.placeholder else option.name


def _values(commands: Sequence[CommandWords]) -> Iterator[tuple[str, str]]:
    """Yield `command --option` and the words that its value may be, with a pattern for files."""
    for words in commands:
        for option in words.options:
            files = [option.files] if option.files else []
            if option.placeholder and (option.choices or files):
                yield f"{words.command.name} {option.name}", " ".join([*option.choices, *files])
