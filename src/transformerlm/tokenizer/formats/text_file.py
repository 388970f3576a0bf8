"""Reading small text files whole, with errors that carry the file and the line."""

from __future__ import annotations

import os
from pathlib import Path

from transformerlm.errors import DataError
from transformerlm.storage.untrusted import LFS_ADVICE, LFS_POINTER


class FileError(DataError):
    """A file that cannot be used. Its one line is `path:line: reason`, or `path: reason` without a line."""

    def __init__(self, path: str | os.PathLike[str], reason: str, line: int | None = None) -> None:
        place = f"{path}" if line is None else f"{path}:{line}"
        super().__init__(f"{place}: {reason}")
        self.path, self.line, self.reason = Path(path), line, reason

    def __reduce__(self) -> tuple[type[FileError], tuple[Path, str, int | None]]:
        return FileError, (self.path, self.reason, self.line)


def read_bytes(path: str | Path) -> bytes:
    """Return the content of a file.

    Raises:
        FileError: a file that cannot be read, a FIFO, which would block until somebody writes to it, or a
            git-lfs pointer.
    """
    try:
        if Path(path).is_fifo():
            raise FileError(path, "expected a file, got a FIFO")
        content = Path(path).read_bytes()
    except OSError as error:
        raise FileError(path, error.strerror or str(error)) from None
    if content.startswith(LFS_POINTER):
        raise FileError(path, LFS_ADVICE)
    return content


def read_utf8(path: str | Path) -> str:
    """Return the text of a UTF-8 file without a byte order mark.

    Raises:
        FileError: a file that cannot be read; or the line and the offset of the first byte that is not UTF-8.
    """
    content = read_bytes(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileError(path, f"not UTF-8 at byte {error.start} of the file", line) from None
