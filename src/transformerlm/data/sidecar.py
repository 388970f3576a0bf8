"""The sidecar of a token file, `NAME.memmap.json`: counts, checksums and origin of the ids.

It has a checksum of itself, except in format 1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from transformerlm.errors import DataError
from transformerlm.storage.checksummed_json import (
    NewerFormatError,
    RecordError,
    RecordFormat,
    dump,
    load,
    members_of,
)
from transformerlm.storage.files import committed_file

FORMAT_VERSION = 2
UNFINISHED = ".unfinished"
"""The folder beside token files in which they are made (`build_journal.py`)."""

DTYPES: dict[str, np.dtype[np.uint16] | np.dtype[np.uint32]] = {
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
}
"""Name in a sidecar -> type of the ids in the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecar:
    """Description of a token file; the members are those of the JSON object."""

    format_version: int
    dtype: str
    """A key of DTYPES."""
    num_tokens: int
    vocab_size: int
    largest_id: int
    """-1 if there are no tokens."""
    num_documents: int
    num_bytes: int
    """UTF-8 bytes of the text that the tokens stand for, separators between documents not counted."""
    fingerprint: str
    """The tokenizer's; token files with the same one can be used together."""
    block_bytes: int
    block_sha256: list[str]
    """SHA-256 of every `block_bytes` bytes of ids, in order."""
    made_from: dict[str, Any]
    """The settings and the files that the tokens were made from."""
    sources: list[dict[str, Any]]
    """Name and num_bytes of each file, or of the first ones if there are very many."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check a sidecar.

        Raises:
            DataError: it is missing, damaged, or of a newer format than this package knows.
        """
        return cls.parse(path, read_sidecar(path))

    @classmethod
    def parse(cls, path: Path, content: bytes) -> Self:
        """Check a sidecar whose content has been read from `path` already.

        Raises:
            DataError: as `read`.
        """
        try:
            values = load(content, SIDECAR_FORMAT)
        except NewerFormatError as error:
            raise DataError(f"{path}: {error}") from None
        except RecordError as error:
            raise damaged_error(path, str(error)) from None
        if values["dtype"] not in DTYPES:
            raise DataError(f"{path}: expected dtype {' or '.join(DTYPES)}, got {values['dtype']!r}")
        return cls(**values)

    def write(self, path: Path) -> None:
        """Write the sidecar, whole or not at all."""
        with committed_file(path) as file:
            file.write(dump(asdict(self)))


SIDECAR_FORMAT = RecordFormat(version=FORMAT_VERSION, checksum_since=2, members=members_of(Sidecar))


def sidecar_path(path: Path) -> Path:
    """Return the path of a token file's sidecar: `x/train.memmap.json` of `x/train.memmap`."""
    return path.with_name(f"{path.name}.json")


def damaged_error(path: Path, what: str) -> DataError:
    """Return the error for a token file or a sidecar that is damaged."""
    advice = "remove the token file and its sidecar, and make them again with transformerlm-make-data"
    return DataError(f"{path}: damaged: {what}; {advice}")


def read_sidecar(path: Path) -> bytes:
    """Read the content of a sidecar, without checking it.

    Raises:
        DataError: there is none; the message distinguishes a missing sidecar, an unfinished and a missing
            file.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        token_path = path.with_suffix("")
        if path.with_name(UNFINISHED).exists():
            what = "not finished yet; transformerlm-make-data goes on where it was interrupted"
            raise DataError(f"{token_path}: {what}") from None
        if not token_path.exists():
            raise DataError(f"{token_path}: no such token file; transformerlm-make-data makes it") from None
        if token_path.is_dir() or token_path.suffix != ".memmap":
            kind = "a folder" if token_path.is_dir() else "another file"
            raise DataError(f"{token_path}: expected a token file (*.memmap), got {kind}") from None
        raise damaged_error(token_path, f"its sidecar {path.name} is missing") from None
