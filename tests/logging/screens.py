"""A pseudo-terminal of a given width, and the screen that a person would see on it."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import termios
import threading
import unicodedata


def set_width(descriptor: int, columns: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))


class Terminal:
    """A real terminal's two ends: programs write to `stream`, and `text` is what has arrived."""

    def __init__(self, columns: int, encoding: str = "utf-8") -> None:
        self._leader, follower = pty.openpty()
        self.descriptor = follower
        self.resize(columns)
        self.stream = open(follower, "w", encoding=encoding, closefd=False)  # noqa: SIM115
        self._arrived = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def resize(self, columns: int) -> None:
        set_width(self.descriptor, columns)

    def _read(self) -> None:
        while True:
            try:
                block = os.read(self._leader, 65536)
            except OSError:  # Linux's way to say that the other end is closed
                return
            if not block:
                return
            self._arrived += block

    def close(self) -> None:
        self.stream.close()
        os.close(self.descriptor)
        self._reader.join()
        os.close(self._leader)

    @property
    def text(self) -> str:
        """All that was written, once the terminal is closed."""
        return self._arrived.decode()


@contextlib.contextmanager
def terminal(columns: int, encoding: str = "utf-8"):
    opened = Terminal(columns, encoding)
    try:
        yield opened
    finally:
        opened.close()


def screen(text: str, columns: int) -> list[str]:
    """The rows of a terminal of this width after `text`: what overwrites and what wraps is as it would be."""
    rows, column = [""], 0
    for part in re.findall(r"\x1b\[[0-9;]*m|.", text, flags=re.DOTALL):
        if part == "\n":
            rows.append("")
        elif part == "\r":
            column = 0
        elif part[0] != "\x1b":
            size = 2 if unicodedata.east_asian_width(part) in "WF" else not unicodedata.combining(part)
            if column + size > columns:
                rows.append("")
                column = 0
            row = rows[-1].ljust(column)
            rows[-1] = row[:column] + part + row[column + 1 :]
            column += size
    return [row.rstrip() for row in rows]
