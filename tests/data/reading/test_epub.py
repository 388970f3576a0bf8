"""Books as zip files of pages."""

import zipfile

import pytest

from tests.data.reading.reader import documents
from transformerlm.errors import DataError

CONTAINER = '<?xml version="1.0"?><container><rootfiles><rootfile full-path="{}"/></rootfiles></container>'
PACKAGE = """<?xml version="1.0"?><!DOCTYPE package [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>
<opf:package xmlns:opf="http://www.idpf.org/2007/opf"><opf:manifest>
<opf:item id="two" href="ch%20two.xhtml" media-type="application/xhtml+xml"/>
<opf:item id="cover" href="cover.png" media-type="image/png"/>
<opf:item id="one" href="../one.xhtml" media-type="application/xhtml+xml"/>
<opf:item id="toc" href="toc.xhtml" media-type="application/xhtml+xml"/></opf:manifest>
<opf:spine><opf:itemref idref="one"/><opf:itemref idref="cover"/><opf:itemref idref="two"/>
<opf:itemref idref="missing"/></opf:spine></opf:package>"""
PAGE = '<?xml version="1.0"?><html><head><title>x</title></head><body><p>{}</p></body></html>'


def write_book(path, kind=zipfile.ZIP_DEFLATED, **changes):
    members = {
        "META-INF/container.xml": CONTAINER.format("text/book.opf"),
        "text/book.opf": PACKAGE,
        "one.xhtml": PAGE.format("Chapter one."),
        "text/ch two.xhtml": PAGE.format("Chapter two: caf&#233;."),
        "text/toc.xhtml": PAGE.format("not in the spine"),
    } | changes
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["a.epub", "a.EPUB", "a"])
def test_the_chapters_of_the_spine_are_one_document(tmp_path, name):
    write_book(tmp_path / name)
    assert documents(tmp_path) == ["Chapter one.\n\nChapter two: café.\n"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"META-INF/container.xml": None}, "with META-INF/container.xml, got none"),
        ({"META-INF/container.xml": CONTAINER.format("../../etc/passwd")}, "with ../../etc/passwd, got none"),
        ({"META-INF/container.xml": "nothing"}, "a book (EPUB) with , got none"),
        ({"text/book.opf": "<package/>"}, "with pages in its spine, got none"),
        ({"text/book.opf": "<item " + "a" * 10**6}, "with pages in its spine, got none"),
        ({"one.xhtml": None}, "with one.xhtml, got none"),
        ({"one.xhtml": b"caf\xe9"}, "one.xhtml: expected UTF-8, but byte 3"),
        ({"text/ch two.xhtml": bytes(2**27)}, "expected pages of at most 67,108,864 bytes, got more"),
    ],
)
def test_what_is_wrong_in_a_book_is_named(tmp_path, changes, message):
    path = write_book(tmp_path / "a.epub", **changes)
    with pytest.raises(DataError) as caught:
        documents(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_damaged_book_is_named(tmp_path):
    content = write_book(tmp_path / "a.epub", zipfile.ZIP_STORED).read_bytes()
    for damaged in (content[:-30], content[:200], content.replace(b"Chapter one", b"Chapter two")):
        (tmp_path / "a.epub").write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.epub: expected a book \(EPUB\), got: "):
            documents(tmp_path)


def test_a_book_under_a_password_is_named(tmp_path):
    content = bytearray(write_book(tmp_path / "a.epub", zipfile.ZIP_STORED).read_bytes())
    for magic, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):  # the flag of encryption, in both headers
        start = -1
        while (start := content.find(magic, start + 1)) >= 0:
            content[start + place] |= 1
    (tmp_path / "a.epub").write_bytes(content)
    with pytest.raises(DataError, match="is encrypted, password required"):
        documents(tmp_path)
