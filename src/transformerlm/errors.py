"""The errors that a user can cause, each with the exit status that its command ends with.

An error carries problems as data: the config key that each is about, where that key was set, and what is
wrong. A command prints one line per problem to stderr, without a traceback. Programming errors of this
package are `assert`s and stay ordinary exceptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self


class Key(tuple[str, ...]):
    """A config key and the tables around it, outermost first: `Key("training", "batch_size")`.

    `str` gives it as messages name it, `[training].batch_size`, and in an array of tables with the item's
    number, `[data].mixture.0.path`; `Key()`, which names none, gives "".
    """

    __slots__ = ()

    def __new__(cls, *parts: str) -> Self:  # noqa: D102
        return super().__new__(cls, parts)

    def __getnewargs__(self) -> tuple[str, ...]:
        return tuple(self)

    def __str__(self) -> str:
        *tables, name = self or ("",)
        numbers = (place for place, part in enumerate(self) if part.isdigit())
        number = next((place for place in numbers if 0 < place < len(self) - 1 or place > 1), len(self))
        named = (f"[{shortened(part)}]." for part in tables[: number - 1])
        rest = ".".join(map(shortened, [*tables[number - 1 :], name]))
        return one_line("".join(named) + rest)


class Problem(NamedTuple):
    """One thing that is wrong, and the config key that it is about."""

    key: Key
    """`Key()` if the problem is not about a config key."""
    what: str
    """`expected ..., got ...` or another clause; a whole sentence if there is no key."""
    source: str = ""
    """The file, or "command line", that set the key; "" while unknown."""

    def __str__(self) -> str:
        where = [self.source] if self.source else []
        return ": ".join([*where, *([str(self.key)] if self.key else []), self.what])


class TransformerLMError(Exception):
    """An error that the user can correct.

    Args:
        problems: a sentence, or several problems, each a sentence or a `Problem`.
        key: the config key that a single sentence is about.
    """

    exit_status = 1

    def __init__(self, problems: str | Sequence[str | Problem], *, key: Key | None = None) -> None:
        given = [Problem(key or Key(), problems)] if isinstance(problems, str) else problems
        self.problems = [Problem(Key(), one) if isinstance(one, str) else one for one in given]
        super().__init__("\n".join(self.lines))

    @property
    def lines(self) -> list[str]:
        """One line per problem."""
        return [str(problem) for problem in self.problems]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class ConfigError(TransformerLMError, ValueError):
    """A config file, an override or an argument that cannot be used."""

    exit_status = 2


class DataError(TransformerLMError, ValueError):
    """A corpus, a tokenizer's files or a token file that cannot be used."""

    exit_status = 3


class CheckpointError(TransformerLMError, ValueError):
    """A checkpoint that is missing, damaged, or of another model."""

    exit_status = 4


class NumericalError(TransformerLMError, ArithmeticError):
    """A loss or gradient that is not finite."""

    exit_status = 6


class OutputError(TransformerLMError):
    """Output that cannot be written: a full disk, a folder that is gone or read-only."""

    exit_status = 74


class LockedError(TransformerLMError):
    """A folder that another process is working in.

    Args:
        directory: the folder.
        holder: the process that has it, such as "process 12 on my-machine".
        lock_file: the file whose lock that process holds.
    """

    exit_status = 75

    def __init__(self, directory: Path, holder: str, lock_file: Path) -> None:
        self.directory, self.holder, self.lock_file = directory, holder, lock_file
        super().__init__(f"{self.in_use}; wait until it ends, or choose another folder")

    @property
    def in_use(self) -> str:
        """The first half of the message: the folder and its holder, without the advice."""
        return f"{self.directory}: in use by {self.holder}, which holds {self.lock_file}"


def shortened(text: str) -> str:
    """Return `text` cut to at most 80 characters."""
    return text if len(text) <= 80 else text[:77] + "..."


def first_line(error: BaseException) -> str:
    """Return an error's first line; of one that is not the user's, with its class."""
    if isinstance(error, TransformerLMError):
        return error.lines[0]
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def one_line(text: str) -> str:
    """Return `text` as one line of printable characters; others are escaped as in Python."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
