"""Files of lines that grow by whole lines, and records that wait while the disk is full."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from transformerlm.logging.terminal import warn
from transformerlm.storage.files import committed_file

R = TypeVar("R")

MAX_PENDING = 100_000
"""Records, a few hundred bytes each, that are kept in memory while the disk is full."""


class LineFile:
    """A file that grows by whole lines; it is opened by the first `append`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def append(self, line: bytes) -> None:
        """Write a line, which is in the file when this returns.

        Raises:
            OSError: it cannot be written; nothing of it is in the file then.
        """
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: one line is one write, and is in the file when the write returns.
            self._file = self.path.open("ab", buffering=0)
        start = self._file.seek(0, os.SEEK_END)
        if self._file.write(line) < len(line):
            self._file.truncate(start)
            raise OSError(errno.ENOSPC, "no space left on the device")

    def rewrite(self, change: Callable[[BinaryIO], Iterable[bytes]]) -> None:
        """Replace the file, if it exists, by the lines that `change` makes of it; wholly or not at all.

        Raises:
            OSError: the new file cannot be written; the old one is unchanged then.
        """
        self.close()
        if not self.path.exists():
            return
        with self.path.open("rb") as old, committed_file(self.path) as new:
            new.writelines(change(old))

    def close(self) -> None:
        """Close the file; `append` opens it again."""
        if self._file is not None:
            self._file.close()
        self._file = None


class Backlog(Generic[R]):
    """Records on their way to a file. If one cannot be written, there is one warning, and it waits.

    The newest MAX_PENDING records are kept in memory.

    Args:
        path: the file, for the warning.
        write: writes a record wholly, or raises OSError.
    """

    def __init__(self, path: Path, write: Callable[[R], None]) -> None:
        self._path, self._write = path, write
        self._pending: deque[R] = deque(maxlen=MAX_PENDING)
        self._warned = False

    def add(self, record: R) -> None:
        """Write a record, after those that wait."""
        self._pending.append(record)
        self.flush()

    def flush(self) -> None:
        """Write the records that wait, as far as possible."""
        try:
            while self._pending:
                self._write(self._pending[0])
                self._pending.popleft()
        except OSError as error:
            if not self._warned:
                warn(f"{self._path}: could not be written ({error.strerror}); training goes on")
            self._warned = True
