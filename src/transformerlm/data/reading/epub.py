"""Text of EPUB books: pages in a zip file, in the order of the book's spine.

The few elements that say where the pages are are read as those of pages are: no entities are expanded, so a
hostile book cannot make much of a little.
"""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from transformerlm.config import CorpusConfig
from transformerlm.data.reading.html import text_of_page
from transformerlm.data.reading.markup import Tag, tokens
from transformerlm.data.reading.record import Record
from transformerlm.errors import DataError, one_line

MAX_BOOK_BYTES: Final = 2**26
"""Bytes of all pages of a book."""
_CONTAINER = "META-INF/container.xml"
_PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def read_book(path: str, config: CorpusConfig) -> Record:
    """Read a book as one document, its chapters separated by blank lines.

    Raises:
        DataError: the file is no EPUB, is damaged or encrypted, or has more than MAX_BOOK_BYTES of pages.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            book = _Book(path, archive)
            pages = [text_of_page(book.read(name), f"{path}: {name}", config) for name in book.pages()]
            if not pages:
                raise DataError(f"{path}: expected a book (EPUB) with pages in its spine, got none")
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        # RuntimeError: a password is needed.
        raise DataError(f"{path}: expected a book (EPUB), got: {error}") from None
    return Record(b"\n".join(filter(None, pages)), Path(path).stat().st_size)


class _Book:
    """The files of a book."""

    def __init__(self, path: str, archive: zipfile.ZipFile) -> None:
        self._path, self._archive, self._num_bytes = path, archive, 0

    def pages(self) -> Iterator[str]:
        """Yield the names of the pages, in the order in which they are read."""
        roots = [found.get("full-path", "") for tag, found in self._elements(_CONTAINER) if tag == "rootfile"]
        root = roots[0] if roots else ""
        elements = self._elements(root)
        items = {found.get("id"): found for tag, found in elements if tag == "item"}
        spine = [items.get(found.get("idref")) for tag, found in elements if tag == "itemref"]
        for item in spine:
            if item and item.get("media-type") in _PAGES:
                path = posixpath.join(posixpath.dirname(root), unquote(item.get("href", "")))
                yield posixpath.normpath(path)

    def read(self, name: str) -> bytes:
        """Read a file of the book."""
        try:
            with self._archive.open(name) as file:
                content = file.read(MAX_BOOK_BYTES - self._num_bytes + 1)
        except KeyError:
            raise DataError(f"{self._path}: expected a book (EPUB) with {one_line(name)}, got none") from None
        self._num_bytes += len(content)
        if self._num_bytes > MAX_BOOK_BYTES:
            raise DataError(f"{self._path}: expected pages of at most {MAX_BOOK_BYTES:,} bytes, got more")
        return content

    def _elements(self, name: str) -> list[tuple[str, dict[str, str]]]:
        """Return name and attributes of the elements of a file."""
        found = tokens(self.read(name).decode(errors="replace"))
        return [(tag.name, tag.attributes()) for tag in found if isinstance(tag, Tag) and tag.is_start]
