"""Observer of documents during a scan: characters, lines, bytes that are not UTF-8."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transformerlm.data.scan import Piece

NUM_CODES = 0x110000
MAX_INVALID = 20
"""Places of invalid bytes that are kept of each item."""

_BATCH = 2**18
_NEWLINE = 10


class Seen(NamedTuple):
    """What was seen of an item's documents."""

    visible: NDArray[np.int64]
    """Characters of each document that are no white space."""
    longest_line: NDArray[np.int64]
    """Bytes of its longest line."""
    longest_line_start: NDArray[np.int64]
    codes: NDArray[np.int64]
    """Code points that occur, and how often; invalid bytes are surrogates."""
    counts: NDArray[np.int64]
    invalid: list[tuple[int, int, int]]
    """Document, byte of the document, and value of the first bytes that are not UTF-8."""
    num_invalid: int


class TextObserver:
    """Looks at the pieces of one item."""

    def __init__(self) -> None:
        self._rows: list[list[int]] = []
        self._invalid: list[tuple[int, int, int]] = []
        self._num_invalid = 0
        self._waiting: list[NDArray[np.uint32]] = []
        self._size = 0
        self._histogram = np.zeros(NUM_CODES, np.int64)
        self._position = self._line_start = 0

    def see(self, piece: Piece, codes: NDArray[np.uint32]) -> None:
        """Count characters and measure lines."""
        if piece.is_begin:
            self._rows.append([0, 0, 0])
            self._position = self._line_start = 0
        self._rows[-1][0] += int(np.count_nonzero((codes > 32) & (codes != 0xA0) & (codes != 0x3000)))
        self._measure_lines(piece.content.utf8, is_end=piece.content.is_end)
        self._note_invalid(piece.document, codes)
        self._position += len(piece.content.utf8)
        self._waiting.append(codes)
        self._size += len(codes)
        if self._size >= _BATCH:
            self._count()

    def result(self) -> Seen:
        """Return what was seen."""
        self._count()
        visible, longest, start = np.array(self._rows, np.int64).reshape(-1, 3).T
        codes = np.flatnonzero(self._histogram)
        counts = self._histogram[codes]
        return Seen(visible, longest, start, codes, counts, self._invalid, self._num_invalid)

    def _count(self) -> None:
        if self._waiting:
            self._histogram += np.bincount(np.concatenate(self._waiting), minlength=NUM_CODES)
            self._waiting, self._size = [], 0

    def _measure_lines(self, utf8: bytes, *, is_end: bool) -> None:
        ends = np.flatnonzero(np.frombuffer(utf8, np.uint8) == _NEWLINE) + self._position
        starts = np.concatenate([[self._line_start], ends + 1])
        stops = np.concatenate([ends, [self._position + len(utf8)]])
        if not is_end:  # the last line may go on in the next part
            starts, stops = starts[:-1], stops[:-1]
        self._line_start = int(ends[-1] + 1) if len(ends) else self._line_start
        if len(starts):
            longest = int(np.argmax(stops - starts))
            length = int(stops[longest] - starts[longest])
            if length > self._rows[-1][1]:
                self._rows[-1][1:] = [length, int(starts[longest])]

    def _note_invalid(self, document: int, codes: NDArray[np.uint32]) -> None:
        places = np.flatnonzero((codes >= 0xDC80) & (codes <= 0xDCFF))
        self._num_invalid += len(places)
        for place in places[: MAX_INVALID - len(self._invalid)].tolist():
            byte = self._position + utf8_length(codes[:place])
            self._invalid.append((document, byte, int(codes[place]) - 0xDC00))


def utf8_length(codes: NDArray[Any]) -> int:
    """Return the bytes of characters in UTF-8; a surrogate stands for one byte that was not."""
    is_invalid = int(np.count_nonzero((codes >= 0xDC80) & (codes <= 0xDCFF)))
    sizes = len(codes) + sum(int(np.count_nonzero(codes >= limit)) for limit in (0x80, 0x800, 0x10000))
    return sizes - 2 * is_invalid
