"""Text of web pages.

The standard library's parser suffices: what is wanted is the text of a page in its order, the same on every
machine, and not a judgement about which part of a page matters. Scripts, styles and the head are left out;
blocks begin on lines of their own, and white space is as a browser shows it.
"""

from __future__ import annotations

import codecs
import re
from html.parser import HTMLParser
from typing import Final

from transformerlm.config import CorpusConfig
from transformerlm.data.reading.record import Record
from transformerlm.data.reading.streams import ByteStream, read_all
from transformerlm.data.reading.utf8 import decode
from transformerlm.tokenizer.pretokenize import bytes_of

MAX_PAGE_BYTES: Final = 2**26

_HIDDEN = {"script", "style", "head", "template", "noscript", "svg", "math", "iframe", "object"}
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
    parser = _TextParser()
    parser.feed(markup)
    parser.close()
    return parser.text()


def _charset(content: bytes) -> str | None:
    """Return the encoding that a page says it is in, if Python knows it and it is not UTF-8."""
    found = _CHARSET.search(content[:2048])
    try:
        name = codecs.lookup(found[1].decode()).name if found else "utf-8"
        "".encode(name)  # not all codecs are encodings of text
    except LookupError:
        return None
    return None if name == "utf-8" else name


class _TextParser(HTMLParser):
    """Parser that collects text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._hidden: list[str] = []
        """Open elements whose text is not shown, the first one and those of its name within."""
        self._num_pre = 0
        self._break = ""
        """White space before the next text."""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if self._hidden:
            self._hidden += [tag] * (tag == self._hidden[0])
        elif tag in _HIDDEN:
            self._hidden.append(tag)
        else:
            self._separate(tag)
            self._num_pre += tag in _PRE

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        if not self._hidden:
            self._separate(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._hidden:
            if tag == self._hidden[0]:
                self._hidden.pop()
            elif tag == "html" or (self._hidden[0] == "head" and tag == "body"):
                self._hidden.clear()  # never closed
            return
        self._separate(tag)
        self._num_pre = max(0, self._num_pre - (tag in _PRE))

    def handle_data(self, data: str) -> None:
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
