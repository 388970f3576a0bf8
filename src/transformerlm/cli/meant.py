"""The command that was meant by one with words that are no options: `transformerlm-train my.toml`.

A word is judged by what it is: a TOML file, the folder of a run, text, a word that an option takes, or a key
without its table.
"""

from __future__ import annotations

import difflib
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
WORD_KEYS = ("infer.prompt",)
"""Keys that a word may be meant for, by what it is; the first that the command has, and that has no value
yet, counts."""


def with_command_meant(
    error: ArgumentsError, argv: Sequence[str], interface: Interface, program: str
) -> ArgumentsError:
    """Return the error with a line that gives the whole command that was meant.

    The error stays as it is if something else is wrong too, or if a word may mean anything.
    """
    guess = _Guess(interface, error.arguments.overrides)
    words = list(argv)
    for at in error.unknown:
        is_value = at > 0 and at - 1 in error.unknown and words[at - 1] != argv[at - 1] and not guess.is_whole
        meant = argv[at] if is_value else guess.meant(argv[at])
        if meant is None:
            return error
        words[at] = meant
    if len(error.problems) > len(error.unknown):
        return error
    stray = " ".join(shortened(argv[at]) for at in error.unknown)
    command = " ".join([program, *map(quoted, words)])
    what = f"{shortened(stray)}: not an option; did you mean: {command}"
    return ArgumentsError([Problem(Key(), what, source=COMMAND_LINE)], error.unknown, error.arguments)


def quoted(word: str) -> str:
    """Return a word as a shell takes it; of `--name=value` only the value is quoted."""
    name, equals, value = word.partition("=")
    is_option = bool(equals) and name.startswith("--") and shlex.quote(name) == name
    return f"{name}={shlex.quote(value) if value else ''}" if is_option else shlex.quote(word)


class _Guess:
    """Guesses for the words of one command line."""

    def __init__(self, interface: Interface, overrides: Mapping[str, Mapping[str, object]]) -> None:
        self.interface, self.keys = interface, interface.key_types()
        self.used = {key for key in self.keys if self._is_set(key, overrides)}
        self.has_config = False
        self.is_whole = True
        """False if the last guess is an option whose value is the next word."""

    def meant(self, word: str) -> str | None:
        """Return the option that was meant by a word; None if it may mean anything."""
        self.is_whole = True
        if option := self._key_without_table(word):
            return option
        if word.startswith("-") or self._is_like_an_option(word):
            return None
        return self._choice(word) or self._by_content(word)

    def _key_without_table(self, word: str) -> str | None:
        """Return `--model.d_model=64` for `d_model=64`, `--d_model=64` and `model.d_model=64`."""
        name, equals, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        found = [key for key in self.keys if name == key or name == key.partition(".")[2]]
        if len(found) != 1 or not (equals or word.startswith("-")):
            return None
        self.is_whole = bool(equals)
        return f"--{found[0]}{equals}{value}"

    def _is_like_an_option(self, word: str) -> bool:
        names = [option.name.lstrip("-") for option in self.interface.listed() if "." not in option.name]
        return not Path(word).exists() and bool(difflib.get_close_matches(word, names, n=1))

    def _choice(self, word: str) -> str | None:
        """Return `--to=hf` for `hf`."""
        for option in self.interface.options:
            if word in choices(self.keys.get(option.keys[0])):
                return f"--{option.name}={word}"
        return None

    def _by_content(self, word: str) -> str | None:
        path = Path(word)
        if path.suffix == ".toml" and not path.is_dir():
            return self._config(word)
        if is_run(path) and (option := self._value_of(RUN_KEYS, word)):
            return option
        if is_run(path) and (path / "config.toml").is_file():
            return self._config(str(path / "config.toml"))
        if path.is_dir():
            return self._value_of(FOLDER_KEYS, word)
        if path.exists() or set(word) & set("/*"):
            return self._value_of(FILE_KEYS, word)
        return self._value_of(WORD_KEYS, word)

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


def is_run(path: Path) -> bool:
    """Return True if the path is the folder of a run or of one checkpoint."""
    return (path / "checkpoints").is_dir() or (path / "model.safetensors").is_file()
