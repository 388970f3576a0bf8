"""Text of web pages, as a browser shows it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.reading.reader import documents
from transformerlm.data.reading.html import text_of_markup
from transformerlm.errors import DataError


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>One <b>bold</b> word,\n and <i>an</i>other.</p><p>Two", "One bold word, and another.\n\nTwo\n"),
        ("a<br>b<br/>c", "a\nb\nc\n"),
        ("<h1>Head</h1>text<hr>more", "Head\n\ntext\n\nmore\n"),
        ("<ul><li>one<li>two</ul>after", "one\ntwo\n\nafter\n"),
        ("<table><tr><td>a<td>b<tr><th>c</th><th>d</th></table>", "a\tb\nc\td\n"),
        ("<pre>  kept\n   as it is</pre>", "  kept\n   as it is\n"),
        ("&lt;p&gt; &amp; &eacute;&#28450;&nbsp;x", "<p> & é漢\u00a0x\n"),
        ("<head><title>T</title></head><body>x<script>if (a<b) { '<p>' }</script>y", "xy\n"),
        ("<style>p {}</style><svg><text>no</text></svg>a<!-- no -->b<noscript>no</noscript>", "ab\n"),
        ("<template><template>no</template>no</template>yes", "yes\n"),
        ("<svg><path/><g/></svg>yes", "yes\n"),
        ("<html><head><title>never closed<body>x</body></html>", ""),
        ("<html><head><title>T</title><meta charset=utf-8><p>x", "x\n"),
        ("<svg/>a<script src='x'/>b<title/>c<video src=x>no</video>d", "abcd\n"),
        ("<p title='a > b' class=\"'\">x</p y='>'>z", "x\n\nz\n"),
        ("a<!doctype html><?xml?></ b>c<!--x-->d<!---->e<![CDATA[x]]>f", "acdef\n"),
        ("a <!-- never closed <p>b", "a\n"),
        ("a <p never closed", "a\n"),
        ("<textarea>  <b>&amp;</b></textarea>", "  <b>&</b>\n"),
        (f"&#{'9' * 5000};&#x110000;&#0;&#xD800;", 4 * "\ufffd" + "\n"),
        ("<div><div><p></p></div></div>", ""),
        ("1 < 2 and 3 > 2 & so on", "1 < 2 and 3 > 2 & so on\n"),
        ("", ""),
    ],
)
def test_text_of_markup(markup, text):
    assert text_of_markup(markup) == text


@given(
    st.lists(st.sampled_from(["<p>", "</p>", "<pre", ">", "<script>", "</", "<!--", "&#", "x", " ", "\0"]))
)
def test_no_markup_is_an_error(parts):
    assert isinstance(text_of_markup("".join(parts)), str)


@pytest.mark.parametrize(
    "part",
    [
        "<!--",
        "<!",
        "<a",
        "<a ",
        "</",
        "</a",
        "<?",
        "&#",
        "<script>",
        "<svg>",
        "<p x='",
        '<a b="\'"',
        "&#1",
        "</p>",
    ],
)
def test_the_time_is_linear_in_the_length_whatever_it_is(part):
    """Of a megabyte, html.parser would take hours for some."""
    assert len(text_of_markup(part * (10**6 // len(part)))) <= 10**6 + 1


@given(st.text(alphabet="ab c\n"))
def test_text_without_markup_keeps_its_words(text):
    assert text_of_markup(text).split() == text.split()


def test_each_page_is_a_document_by_its_name_or_where_it_is_asked_for(tmp_path):
    page = "<html><head><title>T</title></head><body><p>One<p>Two <|endoftext|></body></html>"
    (tmp_path / "a.html").write_text(page)
    (tmp_path / "b.HTM").write_text(page)
    (tmp_path / "c.txt").write_text("plain <b>")
    assert documents(tmp_path, document_separator="") == [*2 * ["One\n\nTwo <|endoftext|>\n"], "plain <b>"]
    assert documents(tmp_path / "a.html", file_format="text", document_separator="") == [page]
    (tmp_path / "page").write_text(page)
    assert documents(tmp_path / "page", file_format="html") == ["One\n\nTwo <|endoftext|>\n"]


def test_the_encoding_that_a_page_names_is_that_of_the_page(tmp_path):
    path = tmp_path / "a.html"
    path.write_bytes('<meta charset="windows-1252"><p>caf\xe9 \x93x\x94'.encode("latin-1"))
    assert documents(path) == ["café “x”\n"]
    path.write_bytes('<meta http-equiv=x content="text/html; charset=KOI8-R">да'.encode("koi8-r"))
    assert documents(path) == ["да\n"]
    for wrong in ("no-such-thing", "rot13", "UTF-8", "utf-16", "utf-7"):
        path.write_bytes(f'<meta charset="{wrong}">caf\xe9'.encode("latin-1"))
        with pytest.raises(DataError, match=r"a\.html: expected UTF-8, but byte \d+ is 0xe9"):
            documents(path)
    path.write_bytes(b"\xef\xbb\xbf<p>caf\xc3\xa9")
    assert documents(path) == ["café\n"]


def test_a_page_that_is_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("transformerlm.data.reading.html.MAX_PAGE_BYTES", 100)
    (tmp_path / "a.html").write_text("<p>" * 100)
    with pytest.raises(DataError, match=r"a\.html: expected a page of at most 100 bytes, got more"):
        documents(tmp_path)
