"""Text of a file as its division into chunks needs it: read forward, with a look back to the last chunk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from transformerlm.data.reading.plain import read_bytes
from transformerlm.data.reading.streams import ByteStream, open_stream
from transformerlm.errors import DataError

MAX_PIECE_BYTES: Final = 2**26
"""Bytes of unpacked text that are held at once: a line of JSON, or text that may be cut nowhere."""


class TextWindow(Protocol):
    """Text from a position on, up to `stop`."""

    @property
    def stop(self) -> int:
        """End of the text. That of a stream may be unknown until `reach` has returned less than asked for."""

    def reach(self, position: int) -> int:
        """Return `position`, or the end of the text if that comes before it."""

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`, which `reach` has found to be there."""

    def take(self, start: int, stop: int) -> tuple[bytes | None, int]:
        """Return bytes that will not be read again, and the bytes of the file that they stand for.

        None stands for bytes that whoever needs them can read from the file.
        """


@contextmanager
def open_window(path: str, codec: str, start: int, stop: int, max_bytes: int) -> Iterator[TextWindow]:
    """Open the text of a file from byte `start` to byte `stop` of the text, or to its end.

    Args:
        codec: as in `open_stream`.
        max_bytes: as in `open_stream`.
    """
    if not codec:
        yield FileWindow(path, stop)
        return
    with open_stream(path, codec, max_bytes) as stream:
        yield StreamWindow(stream, start, stop)


class FileWindow:
    """Text of a plain file, of which nothing is kept."""

    def __init__(self, path: str, stop: int) -> None:
        self.path, self.stop = path, stop

    def reach(self, position: int) -> int:
        """Return `position`, or the end of the text if that comes before it."""
        return min(position, self.stop)

    def read(self, start: int, stop: int) -> bytes:
        """Read bytes `start` to `stop`."""
        return read_bytes(self.path, start, stop)

    def take(self, start: int, stop: int) -> tuple[bytes | None, int]:
        """Return no bytes, and their number."""
        return None, stop - start


class StreamWindow:
    """Text of a stream, of which what has not been taken yet is kept."""

    def __init__(self, stream: ByteStream, start: int, stop: int) -> None:
        self._stream, self.stop = stream, stop
        self._start = start
        """Position of the first byte that is kept."""
        self._kept = bytearray()
        self._skip(start)
        self._taken_to = stream.file_position if start else 0

    def reach(self, position: int) -> int:
        """Return `position`, or the end of the text if that comes before it."""
        # One byte more: whether the text ends at the position shall be known.
        while self._start + len(self._kept) < min(position + 1, self.stop):
            self._check_size(position)
            block = self._stream.read()
            if not block:
                self.stop = min(self.stop, self._start + len(self._kept))
            self._kept += block
        return min(position, self.stop)

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`."""
        return bytes(memoryview(self._kept)[start - self._start : stop - self._start])

    def take(self, start: int, stop: int) -> tuple[bytes | None, int]:
        """Return bytes and what they took of the file; those before `stop` are not kept."""
        data = self.read(start, stop)
        del self._kept[: stop - self._start]
        self._start = stop
        before, self._taken_to = self._taken_to, self._stream.file_position
        return data, self._taken_to - before

    def _skip(self, number: int) -> None:
        while number > 0 and (block := self._stream.read()):
            self._kept += block[number:]
            number -= len(block)
        self._start -= max(0, number)  # the text ends before the position

    def _check_size(self, position: int) -> None:
        if position - self._start > MAX_PIECE_BYTES:
            what = f"from byte {self._start} of the unpacked text on there is no place to divide it"
            raise DataError(f"{self._stream.path}: {what} within {MAX_PIECE_BYTES:,} bytes; unpack the file")
