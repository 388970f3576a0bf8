"""The command that was meant by one with words that are no options: `transformerlm-train my.toml`.

A word is judged by what it is: a TOML file, the folder of a run, text, a value that an option takes, or a key
without its table.
Paths are asked about through os.path, which returns False where pathlib raises: a text may be no
name of a file.
"""

# ruff: noqa: PTH110, PTH112, PTH113, PTH118

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformerlm.cli.arguments import COMMAND_LINE, ArgumentsError
from transformerlm.cli.interface import Interface
from transformerlm.errors import Key, Problem, shortened
from transformerlm.schema import choices

RUN_KEYS = ("infer.checkpoint", "eval.checkpoint", "export.checkpoint", "eval.compare")
FOLDER_KEYS = ("eval.text", "data.corpus", "import_model.source", "infer.checkpoint", "export.checkpoint")
FILE_KEYS = ("eval.text", "data.corpus", "infer.prompt_file")
NEW_KEYS = ("infer.prompt", "export.output", "import_model.run_dir")
"""Keys that a word may be meant for, by what it is; NEW_KEYS if there is no such file. The first one counts
that the command has and that has no value yet."""


def with_command_meant(
    error: ArgumentsError, argv: Sequence[str], interface: Interface, program: str
) -> ArgumentsError:
    """Return the error in the form of the whole command that was meant, in one line.

    Where some words may mean anything, or something else is wrong too, the problems of the other words say
    what each of them may mean.
    """
    guesses = _guesses(error, argv, interface)
    if len(guesses) == len(error.unknown) == len(error.problems):
        stray = shortened(" ".join(argv[at] for at in error.unknown))
        words = [guesses.get(at, word) for at, word in enumerate(argv)]
        command = " ".join([program, *(quoted(word) for word in words if word is not None)])
        problems = [_problem(stray, command)]
    else:
        problems = list(error.problems)
        for at, guess in guesses.items():
            problems[error.unknown[at]] = _problem(shortened(argv[at]), quoted(guess or argv[at]))
    return ArgumentsError(problems, error.unknown, error.arguments)


def _problem(stray: str, meant: str) -> Problem:
    return Problem(Key(), f"{stray}: not an option; did you mean: {meant}", source=COMMAND_LINE)


def quoted(word: str) -> str:
    """Return a word as a shell takes it; of `--name=value` only the value is quoted."""
    name, equals, value = word.partition("=")
    is_option = bool(equals) and name.startswith("--") and shlex.quote(name) == name
    return f"{name}={shlex.quote(value) if value else ''}" if is_option else shlex.quote(word)


def _guesses(error: ArgumentsError, argv: Sequence[str], interface: Interface) -> dict[int, str | None]:
    """Return what unknown words were meant to be, by their position; None: part of the one before.

    Words that may mean anything are missing.
    """
    guess, found = _Guess(interface, error.arguments.overrides), dict[int, str | None]()
    single, several, joined = _divided(list(error.unknown), argv, "infer.prompt" in guess.keys)
    for at in single:
        if guess.wants_value and at - 1 in found and not argv[at].startswith("-"):
            found[at], guess.wants_value = argv[at], False
        elif meant := guess.meant(argv[at]):
            found[at] = meant
    if joined and (meant := guess.meant(joined)):
        found |= {**dict.fromkeys(several), several[0]: meant}
    return found


def _divided(
    places: Sequence[int], argv: Sequence[str], takes_text: bool
) -> tuple[Sequence[int], Sequence[int], str]:
    """Return the places of words by themselves, those of words that are one value, and that value."""
    for start in (0, 1):  # `transformerlm-infer RUN Once upon a time`
        if joined := joined_words([argv[at] for at in places[start:]], takes_text):
            return places[:start], places[start:], joined
    return places, [], ""


def joined_words(words: Sequence[str], takes_text: bool) -> str:
    """Return the one value that several words were meant to be; "" if they are none.

    Files of a folder are what a shell has made of a glob without quotes; other words are a text without
    quotes.

    Args:
        takes_text: True if the command takes a text.
    """
    if len(words) < 2 or any(word.startswith("-") or "=" in word or word.endswith(".toml") for word in words):
        return ""
    if not any(os.path.exists(word) for word in words):
        return " ".join(words) if takes_text else ""
    paths = [Path(word) for word in words]
    if len({path.parent for path in paths}) > 1 or not all(os.path.isfile(path) for path in paths):
        return ""
    suffixes = {path.suffix for path in paths}
    return str(paths[0].parent / f"*{suffixes.pop() if len(suffixes) == 1 else ''}")


class _Guess:
    """Guesses for the words of one command line."""

    def __init__(self, interface: Interface, overrides: Mapping[str, Mapping[str, object]]) -> None:
        self.interface, self.keys = interface, interface.key_types()
        self.used = {key for key in self.keys if self._is_set(key, overrides)}
        self.has_config = False
        self.wants_value = False
        """True if the last guess is an option whose value is the next word."""

    def meant(self, word: str) -> str | None:
        """Return the option that was meant by a word; None if it may mean anything."""
        self.wants_value = False
        if option := self._key_without_table(word):
            return option
        if word.startswith("-") or self._is_like_an_option(word):
            return None
        return self._choice(word) or self._by_content(word)

    def _key_without_table(self, word: str) -> str | None:
        """Return `--model.d_model=64` for `d_model=64`, `--d_model=64` and `model.d_model=64`."""
        name, equals, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        found = [key for key in self.keys if name in (key, key.partition(".")[2])]
        if len(found) != 1 or not (equals or word.startswith("-")):
            return None
        self.wants_value = not equals
        return f"--{found[0]}{equals}{value}"

    def _is_like_an_option(self, word: str) -> bool:
        names = [option.name.lstrip("-") for option in self.interface.listed() if not option.table]
        return not os.path.exists(word) and bool(difflib.get_close_matches(word, names, n=1))

    def _choice(self, word: str) -> str | None:
        """Return `--to=hf` for `hf`."""
        for option in self.interface.options:
            if word in choices(self.keys.get(option.keys[0])):
                return f"--{option.name}={word}"
        return None

    def _by_content(self, word: str) -> str | None:
        if word.endswith(".toml") and not os.path.isdir(word):
            return self._config(word)
        if is_run(word) and (option := self._value_of(RUN_KEYS, word)):
            return option
        if is_run(word) and os.path.isfile(config := os.path.join(word, "config.toml")):
            return self._config(config)
        if os.path.isfile(word) or ("*" in word and " " not in word):
            return self._value_of(FILE_KEYS, word)
        if os.path.isdir(word):
            return self._value_of(FOLDER_KEYS, word)
        is_path = "/" in word and " " not in word
        return self._value_of((*FOLDER_KEYS, *NEW_KEYS) if is_path else NEW_KEYS, word)

    def _config(self, path: str) -> str | None:
        is_first, self.has_config = not self.has_config, True
        return f"--config={path}" if is_first else None

    def _value_of(self, keys: Sequence[str], word: str) -> str | None:
        for key in keys:
            if key in self.keys and key not in self.used:
                self.used.add(key)
                short = {option.keys[0]: option.name for option in self.interface.options}
                return f"--{short.get(key, key)}={word}"
        return None

    @staticmethod
    def _is_set(key: str, overrides: Mapping[str, Mapping[str, object]]) -> bool:
        table, _, name = key.partition(".")
        return name in overrides.get(table, {})


def is_run(path: str) -> bool:
    """Return True if the path is the folder of a run or of one checkpoint."""
    files = "model.safetensors", "model.safetensors.index.json"
    is_checkpoint = any(os.path.isfile(os.path.join(path, name)) for name in files)
    return is_checkpoint or os.path.isdir(os.path.join(path, "checkpoints"))
