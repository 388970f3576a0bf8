"""Bytes of a plain file, at any place."""

from __future__ import annotations

from transformerlm.errors import DataError


def read_bytes(path: str, start: int, stop: int) -> bytes:
    """Read bytes `start` to `stop` of a file.

    Raises:
        DataError: the file cannot be read, or has become shorter.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - of many small files, Path takes a third of the time
            file.seek(start)
            content = file.read(stop - start)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) < stop - start:
        raise DataError(f"{path}: has become shorter while it was being read; start again")
    return content
