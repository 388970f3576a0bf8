"""Text of web pages: in their order, all of it, and not a judgement about which part of a page matters.

Scripts, styles and the title are left out; blocks begin on lines of their own, and white space is as a
browser shows it.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

from transformerlm.config import CorpusConfig
from transformerlm.data.reading.markup import Tag, tokens
from transformerlm.data.reading.record import Record
from transformerlm.data.reading.streams import ByteStream, read_all
from transformerlm.data.reading.utf8 import decode
from transformerlm.tokenizer.pretokenize import bytes_of

MAX_PAGE_BYTES: Final = 2**26

_HIDDEN_TAGS = (
    "script style title template noscript noframes noembed iframe object audio video canvas svg math"
)
_HIDDEN = frozenset(_HIDDEN_TAGS.split())
_PARAGRAPH_TAGS = (
    "address article aside blockquote body center dd details dialog dir div dl dt fieldset figcaption figure "
    "footer form h1 h2 h3 h4 h5 h6 header hgroup hr main menu nav ol p pre section summary table ul"
)
_PARAGRAPHS = frozenset(_PARAGRAPH_TAGS.split())
_LINES = frozenset(("br", "caption", "li", "legend", "option", "tbody", "tfoot", "thead", "tr"))
_CELLS = frozenset(("td", "th"))
_PRE = frozenset(("pre", "textarea", "listing"))
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_WHITE_SPACE = re.compile(r"[ \t\n\r\f]+")


def read_page(stream: ByteStream, config: CorpusConfig) -> Record:
    """Read a page as one document.

    Raises:
        DataError: the page is longer than MAX_PAGE_BYTES, or is not in UTF-8 and does not say what it is in.
    """
    content = read_all(stream, MAX_PAGE_BYTES, "a page")
    return Record(text_of_page(content, stream.path, config), stream.file_position)


def text_of_page(content: bytes, path: str, config: CorpusConfig) -> bytes:
    """Return the text of a page as UTF-8."""
    content = content.removeprefix(codecs.BOM_UTF8)
    charset = _charset(content)
    if charset:
        markup = content.decode(charset, "replace")
    else:
        markup = decode(content, path, 0, config.encoding_errors)
    return bytes_of(text_of_markup(markup))


def text_of_markup(markup: str) -> str:
    """Return the text that a browser would show, in the order of the page; it ends with a line break."""
    text = _Text()
    for token in tokens(markup):
        if isinstance(token, Tag):
            text.add_tag(token)
        else:
            text.add_text(token)
    return text.text()


def _charset(content: bytes) -> str | None:
    """Return the encoding that a page says it is in, if Python knows it and it is no form of Unicode.

    Whoever could read the declaration byte by byte reads no UTF-16, whatever it says.
    """
    found = _CHARSET.search(content[:2048])
    try:
        name = codecs.lookup(found[1].decode()).name if found else "utf-8"
        "".encode(name)  # not all codecs are encodings of text
    except LookupError:
        return None
    return None if name.startswith("utf") else name


class _Text:
    """Text of a page, as it grows token by token."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._hidden = ""
        """Name of the element whose content is not shown; "": all is."""
        self._depth = 0
        """Open elements of that name."""
        self._num_pre = 0
        self._break = ""
        """White space before the next text."""

    def add_tag(self, tag: Tag) -> None:
        """Add a tag, of which nothing but white space may be seen."""
        change = tag.is_start - tag.is_end
        if self._hidden:
            self._depth += change * (tag.name == self._hidden)
        elif tag.name in _HIDDEN:
            self._hidden, self._depth = tag.name, max(0, change)
        else:
            self._separate(tag.name)
            self._num_pre = max(0, self._num_pre + change * (tag.name in _PRE))
        if not self._depth:
            self._hidden = ""

    def add_text(self, data: str) -> None:
        """Add text that stands between tags."""
        if self._hidden:
            return
        if self._num_pre:
            self._add(data)
            return
        data = _WHITE_SPACE.sub(" ", data)
        if data.startswith(" ") and not self._break:
            self._break = " "
        if shown := data.strip(" "):
            self._add(shown)
            self._break = " " if data.endswith(" ") else ""

    def text(self) -> str:
        """Return the text that has been collected."""
        text = "".join(self._parts).strip("\n")
        return f"{text}\n" if text else ""

    def _add(self, text: str) -> None:
        self._parts += [self._break if self._parts else "", text]
        self._break = ""

    def _separate(self, tag: str) -> None:
        """Begin a paragraph, a line or a cell where a tag says so."""
        if tag in _PARAGRAPHS:
            self._break = "\n\n"
        elif tag in _LINES and self._break != "\n\n":
            self._break = "\n"
        elif tag in _CELLS and not self._break.startswith("\n"):
            self._break = "\t"
