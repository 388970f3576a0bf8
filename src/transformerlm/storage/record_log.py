"""Append-only files of JSON records, one per line, each with a checksum of itself.

    {"cell": {"contestant": "xz"}, "result": {"bits_per_byte": 2.9}, "sha256": "9f86d0..."}

"sha256" is that of the other members as JSON with sorted names. A record is on the disk when `append`
returns. A line that a kill or a power failure has cut, or that is damaged, is passed over and counted: the
records before and after it are read. One process at a time may append; any number may read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformerlm.storage.files import full_disk_as_output_error, make_directory, sync_directory

CHECKSUM = "sha256"


class RecordLog:
    """The records in a file, which need not exist yet, oldest first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        self.damaged_lines: list[int] = []
        """Numbers, from 1, of the lines that are no whole records."""
        self._is_new = not path.exists()
        for number, line in enumerate([] if self._is_new else path.read_bytes().splitlines(), start=1):
            self._take(number, line)

    def append(self, record: Mapping[str, Any]) -> None:
        """Append a record of JSON values.

        Raises:
            OutputError: the disk is full.
        """
        assert CHECKSUM not in record
        line = plain_json({**record, CHECKSUM: checksum(record)}).encode() + b"\n"
        with full_disk_as_output_error(self.path):
            make_directory(self.path.parent)
            with self.path.open("a+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
                    line = b"\n" + line  # after a line that was cut
                if file.write(line) < len(line):  # a full disk: nothing of the line stays
                    file.truncate(end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(file.fileno())
            if self._is_new:
                sync_directory(self.path.parent)
        self._is_new = False
        self.records.append(dict(record))

    def _take(self, number: int, line: bytes) -> None:
        try:
            record = json.loads(line)
            is_whole = record.pop(CHECKSUM) == checksum(record)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            is_whole = False
        if is_whole:
            self.records.append(record)
        elif line:
            self.damaged_lines.append(number)


def checksum(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record, in hexadecimal digits."""
    return hashlib.sha256(plain_json(record).encode()).hexdigest()


def plain_json(value: Mapping[str, Any]) -> str:
    """Return JSON that does not depend on the order of the members."""
    return json.dumps(value, sort_keys=True)
