"""Interface of a command: its config, short options and modes, in the form that help and completion show."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformerlm.cli.arguments import CONFIG, FLAGS, Mode, Option
from transformerlm.config.common import is_common
from transformerlm.schema import (
    Section,
    choices,
    field_docs,
    field_types,
    from_dict,
    placeholder,
    tables,
    takes_path,
)

Automatic = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Function from the keys that the user has set to these and those that go with them; nested as in TOML."""

ANY_FILE, TOML_FILE = "*", "*.toml"


@dataclasses.dataclass(frozen=True)
class ListedOption:
    """An option of a command, as help and completion show it."""

    name: str
    """With its dashes, such as "--model.d_model"; that of a word without an option has none."""
    summary: str
    """One sentence, or two short ones."""
    placeholder: str = ""
    """Placeholder of its value in the help, such as "N"; "": it takes none."""
    choices: tuple[str, ...] = ()
    """Words that the value may be; it may be another if the key is a number or a path too."""
    files: str = ""
    """Shell pattern of the files that the value may name; "": it names none."""
    is_common: bool = True
    """False for a key that only `--help=all` shows."""

    @property
    def table(self) -> str:
        """Table of the key that the option is named after, such as "model"; "" for another name."""
        table, dot, _ = self.name.removeprefix("--").partition(".")
        return table if dot and self.name.startswith("--") else ""

    @property
    def usage(self) -> str:
        """The option with what stands for its value: `--model.d_model=N`."""
        return f"{self.name}={self.placeholder}" if self.placeholder else self.name


@dataclasses.dataclass(frozen=True)
class Interface:
    """Everything that a command can be given.

    Args:
        description: first lines of the help.
        options: short options for keys of the config.
        modes: options that make the command run another function.
        automatic: adds keys to those that the user sets.
        positional: the keys that words without `--` set, `Option("RUN", ("report.runs",), repeated=True)`;
            its name is shown by --help. None: such words are answered with the command that was meant.
    """

    config_class: type[Section]
    _: dataclasses.KW_ONLY
    description: str = ""
    options: Sequence[Option] = ()
    modes: Sequence[Mode] = ()
    automatic: Automatic | None = None
    positional: Option | None = None

    def key_types(self) -> dict[str, Any]:
        """Return the type of every key by its dotted name, such as "model.d_model"."""
        return {
            f"{table}.{key}": hint
            for table, section in tables(self.config_class).items()
            for key, hint in field_types(section).items()
        }

    def default_config(self) -> Section:
        """Return the config of a command line that sets nothing."""
        return from_dict(self.config_class, self.automatic({})) if self.automatic else self.config_class()

    def listed(self) -> list[ListedOption]:
        """Return every option: words, those of all commands, short options, modes, then one per key."""
        words = [self._word(self.positional)] if self.positional else []
        first = [
            *words,
            ListedOption("--config", "read the config from a file", "FILE.toml", files=TOML_FILE),
        ]
        flags = [ListedOption(name, flag.summary) for name, flag in FLAGS.items() if flag.summary]
        return [*first, *map(self._short, self.options), *map(_mode, self.modes), *flags, *self.keys()]

    def keys(self) -> list[ListedOption]:
        """Return an option for every key of the config, in the order of the tables."""
        return [
            _key(f"{table}.{key}", hint, docs[key], is_common(table, key))
            for table, section in tables(self.config_class).items()
            for docs in [field_docs(section)]
            for key, hint in field_types(section).items()
        ]

    def _word(self, positional: Option) -> ListedOption:
        item = self._short(positional)
        name = positional.name + "..." * positional.repeated
        if positional.keys == (CONFIG,):
            item = dataclasses.replace(item, files=TOML_FILE)
        return dataclasses.replace(item, name=name, placeholder="")

    def _short(self, option: Option) -> ListedOption:
        hint = self.key_types().get(option.keys[0], str)
        if option.value:
            return ListedOption(f"--{option.name}", f"short for --{option.keys[0]}={option.value}")
        keys = " and, with a second value, --".join(option.keys)
        again = ", as often as there are values" if option.repeated else ""
        item = _key(option.name, hint, f"short for --{keys}{again}", True)
        return dataclasses.replace(item, placeholder="TEXT") if option.repeated else item


def _key(name: str, hint: Any, doc: str, is_common: bool) -> ListedOption:
    files = ANY_FILE if takes_path(hint) else ""
    words = tuple(dict.fromkeys(choices(hint)))
    return ListedOption(f"--{name}", summary_of(doc), placeholder(hint), words, files, is_common)


def _mode(mode: Mode) -> ListedOption:
    summary, _, _ = (mode.function.__doc__ or "").partition("\n")
    return ListedOption(f"--{mode.name}", summary, mode.number)


def summary_of(doc: str, max_length: int = 100) -> str:
    """Return the first sentences of a key's documentation that fit in `max_length`, at least one."""
    first, *others = re.split(r"(?<=\.)\s+(?=[\"\[A-Z0-9])", " ".join(doc.split()))
    for sentence in others:
        if len(first) + len(sentence) >= max_length:
            break
        first = f"{first} {sentence}"
    return first
