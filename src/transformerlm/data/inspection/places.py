"""Places of documents: file, number, line, and a snippet of the text."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from transformerlm.data.inspection.facts import Example, Place
from transformerlm.data.scan import Scan, Texts

SNIPPET_CHARACTERS = 80


class Places:
    """The places of a scanned corpus' documents.

    Args:
        scan: the documents.
        names: path of a file -> its name relative to the corpus.
    """

    def __init__(self, scan: Scan, names: Mapping[str, str]) -> None:
        self._scan, self._names = scan, names
        self._read: Callable[[int], Iterator[bytes]] = scan.parts
        paths = [path for path, _ in itertools.groupby(chunk.path for chunk in scan.chunks)]
        numbers = {path: number for number, path in enumerate(dict.fromkeys(paths))}
        of_chunk = np.array([numbers[chunk.path] for chunk in scan.chunks], np.int64)
        self._files = of_chunk[scan.first_chunks] if len(scan) else np.empty(0, np.int64)
        """Number of each document's file."""
        order = np.argsort(self._files, kind="stable")
        self._sizes = np.bincount(self._files, minlength=len(numbers))
        starts = np.cumsum(self._sizes) - self._sizes
        self._ordinals = np.empty(len(scan), np.int64)
        self._ordinals[order] = np.arange(len(scan)) - starts[self._files[order]]
        self._paths = list(numbers)

    @contextmanager
    def at_hand(self, documents: Iterable[int]) -> Iterator[None]:
        """Read some documents that are going to be quoted: files that are not plain once for all of them."""
        with Texts(self._scan, documents) as texts:
            self._read = texts.parts
            try:
                yield
            finally:
                self._read = self._scan.parts

    def of(self, document: int, byte: int = 0) -> Place:
        """Return a place, for which the document is read again up to there unless it is its beginning.

        Of a file that is not plain all before it is read too, unless the document is at hand.
        """
        path = self._scan.path(document)
        line = 1 + self._newlines_before(document, byte) if byte else 1
        is_only = bool(self._sizes[self._files[document]] == 1)
        name = self._names.get(path, path)
        return Place(name, int(self._ordinals[document]) + 1, line, byte, is_only)

    def example(self, document: int, byte: int, size: int) -> Example:
        """Return the text at a byte of a document as an example of something with a size."""
        return Example(self.of(document, byte), self.snippet(document, byte), size)

    def files_without_documents(self) -> list[str]:
        """Return the names of the files in which there is nothing but white space."""
        read = {self._paths[number] for number in np.flatnonzero(self._sizes).tolist()}
        return [name for path, name in self._names.items() if path not in read]

    def snippet(self, document: int, byte: int = 0, length: int = SNIPPET_CHARACTERS) -> str:
        """Return some text from a byte of a document on, in one line."""
        found, position = b"", 0
        for part in self._read(document):
            found += part[max(0, byte - position) :][: 4 * length]
            position += len(part)
            if len(found) >= 4 * length:
                break
        return snippet(found.decode(errors="replace"), length)

    def _newlines_before(self, document: int, byte: int) -> int:
        number = position = 0
        for part in self._read(document):
            number += part[: byte - position].count(b"\n")
            position += len(part)
            if position >= byte:
                break
        return number


def snippet(text: str, length: int = SNIPPET_CHARACTERS) -> str:
    """Return the beginning of a text in one line; control characters are shown as symbols."""
    text = " ".join(text[: 4 * length].split())
    shown = "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"
