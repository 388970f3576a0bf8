"""Tags and text of HTML, as browsers divide it, in time that is linear in the length of whatever it is.

The standard library's `html.parser` takes quadratic time for pages with tags that do not end, and its
releases differ in what they make of a page; here a page is the same text everywhere.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import NamedTuple

_TAG = re.compile(r"</?([a-zA-Z][^\s/>]{0,99})[^\s/>]*")
_END_OR_QUOTE = re.compile("[>\"']")
_ATTRIBUTE = re.compile(r"""(?<![\w:.-])([\w:.-]++)\s*+=\s*+(?:"([^"]*)"|'([^']*)')""")
_TOO_LARGE = re.compile(r"&#(?:[0-9]{8,}|[xX][0-9a-fA-F]{8,});?")
"""A reference to no character; to make a number of very many digits takes long."""
_RAW = ("script", "style", "title", "textarea", "iframe", "noembed", "noframes", "xmp")
"""Elements without tags in them."""
_WITH_REFERENCES = ("title", "textarea")
_RAW_ENDS = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in _RAW}


class Tag(NamedTuple):
    """A tag."""

    name: str
    """In lower case, without a namespace."""
    is_start: bool
    """True for the tag that begins an element, and for one that is all of it."""
    is_end: bool
    source: str

    def attributes(self) -> dict[str, str]:
        """Return the attributes that have a value in quotes."""
        found = _ATTRIBUTE.findall(self.source)
        return {name.lower(): html.unescape(double or single) for name, double, single in found}


def tokens(markup: str) -> Iterator[Tag | str]:
    """Yield tags and the text between them, its references to characters resolved; comments are left out.

    What has no end (a tag, a comment, a script) reaches to the end of the page.
    """
    position = 0
    while (start := markup.find("<", position)) >= 0:
        if start > position:
            yield _resolved(markup[position:start])
        position = start + 1
        if match := _TAG.match(markup, start):
            position = _end_of_tag(markup, match.end())
            tag = _tag(markup[start:position], match[1])
            if position:
                yield tag
            if position and tag.name in _RAW_ENDS and not tag.is_end:
                content = markup[position : _end_of_raw(markup, position, tag.name)]
                position += len(content)
                yield _resolved(content) if tag.name in _WITH_REFERENCES else content
        elif markup.startswith(("<!", "<?", "</"), start):
            position = _end_of_comment(markup, start)
        else:
            yield "<"
        if not position:
            return
    if position < len(markup):
        yield _resolved(markup[position:])


def _end_of_raw(markup: str, position: int, name: str) -> int:
    end = _RAW_ENDS[name].search(markup, position)
    return end.start() if end else len(markup)


def _end_of_comment(markup: str, start: int) -> int:
    """Return the position after a comment, or what is taken for one; 0 if it does not end."""
    if markup.startswith("<!--", start):
        end = markup.find("-->", start + 2)
        return end + 3 if end >= 0 else 0
    return markup.find(">", start) + 1


def _end_of_tag(markup: str, position: int) -> int:
    """Return the position after a tag; 0 if it does not end. A ">" within quotes does not end it."""
    while found := _END_OR_QUOTE.search(markup, position):
        if found[0] == ">":
            return found.end()
        position = markup.find(found[0], found.end()) + 1
        if not position:
            return 0
    return 0


def _tag(source: str, name: str) -> Tag:
    is_end = source.startswith("</")
    return Tag(name.lower().rpartition(":")[2], not is_end, is_end or source.endswith("/>"), source)


def _resolved(text: str) -> str:
    return html.unescape(_TOO_LARGE.sub("\ufffd", text)) if "&" in text else text
