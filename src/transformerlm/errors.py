"""The errors that a user can cause, each with the exit status its command ends with.

Every one carries whole, finished lines in the user's words; a command prints them to stderr and
adds no traceback. Mistakes of our own are `assert`s and stay ordinary exceptions.
"""

from __future__ import annotations

from collections.abc import Sequence


class TransformerLMError(Exception):
    """Something that the user can mend. `lines` holds one complete sentence per problem."""

    exit_status = 1

    def __init__(self, lines: str | Sequence[str]) -> None:
        self.lines = [lines] if isinstance(lines, str) else list(lines)
        super().__init__("\n".join(self.lines))


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
    """Something that cannot be written: a full disk, a folder that is gone or read-only."""

    exit_status = 74


class LockedError(TransformerLMError):
    """A folder that another process is at work in."""

    exit_status = 75
