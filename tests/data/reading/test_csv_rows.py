"""CSV and TSV files, written by the csv module, and what others make of the format."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.packed_files import packed
from tests.data.reading.reader import documents
from transformerlm.config import CorpusConfig
from transformerlm.data.reading.records import records_of
from transformerlm.errors import DataError

CELLS = st.text(alphabet='ab ",;\t\n|é漢\0\x0b\u2028', max_size=12)


def written(rows, **options):
    file = io.StringIO(newline="")
    csv.writer(file, **options).writerows(rows)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("csv")


@settings(max_examples=100, deadline=None)
@given(
    cells=st.lists(CELLS, min_size=1, max_size=8),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    ending=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
    chunk_bytes=st.integers(1, 30),
)
def test_each_row_is_a_document(folder, cells, delimiter, ending, mark, chunk_bytes):
    rows = [["id", "text", "more"], *([number, cell, "x"] for number, cell in enumerate(cells))]
    path = folder / "a.csv"
    path.write_bytes((mark + written(rows, delimiter=delimiter, lineterminator=ending)).encode())
    expected = [cell for cell in cells if cell.strip(" \t\n\r\f\v")]
    assert documents(path, chunk_bytes) == expected


def test_all_columns_have_names_and_any_can_be_chosen(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text(written([["id", "the body"], [1, "one"], [2], [3, "three"]], delimiter="\t"))
    assert (
        documents(path, text_field="the body") == documents(path, jsonl_field="the body") == ["one", "three"]
    )
    with pytest.raises(DataError, match=r'a\.tsv: expected a column "text", got only id, the body\)'):
        documents(path)
    assert documents(path, file_format="text") == [path.read_bytes().decode()]


def test_a_header_may_have_line_breaks_and_blank_lines_before_it(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\n\n"a\nb","text"\n1,"two\n\nlines"\n\n2,x')
    assert documents(path) == ["two\n\nlines", "x"]
    assert documents(path, text_field="a\nb") == ["1", "2"]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_header_may_be_long_but_not_all_of_the_file(tmp_path, monkeypatch, suffix):
    def write(content):
        content = content.encode()
        (tmp_path / f"a.csv{suffix}").write_bytes(packed(content, "gz") if suffix else content)

    names = [f"a column with number {number}" for number in range(3000)]
    write(written([[*names, "text"], [*names, "found"]]))
    assert documents(tmp_path) == ["found"]
    write('"never closed\n' + "text\n" * 10**6)
    with pytest.raises(DataError, match="expected a column"):
        documents(tmp_path)
    monkeypatch.setattr("transformerlm.data.reading.csv_rows.MAX_HEADER", 1000)
    with pytest.raises(DataError, match="expected a column"):
        list(records_of(str(tmp_path / f"a.csv{suffix}"), f"csv{suffix}", CorpusConfig()))


@pytest.mark.parametrize("codec", ["gz", "zst"])
def test_compressed(tmp_path, codec):
    rows = written([["text"], *([f"row {number}" * 50] for number in range(2000))]).encode()
    (tmp_path / f"a.csv.{codec}").write_bytes(packed(rows, codec))
    (tmp_path / "b.csv").write_bytes(rows)
    found = documents(tmp_path)
    assert found[:2000] == found[2000:]
    assert found[1999] == "row 1999" * 50


def test_fields_as_long_as_documents_are_read_and_the_limit_of_others_stays(tmp_path):
    before = csv.field_size_limit()
    path = tmp_path / "a.csv"
    path.write_text(written([["text"], ["long " * 100_000], ["short"]]))
    assert documents(path) == ["long " * 100_000, "short"]
    assert csv.field_size_limit() == before


def test_what_is_not_utf8_is_named_with_its_place_or_replaced(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext\nfine\ncaf\xe9\n")
    with pytest.raises(DataError, match="expected UTF-8, but byte 16 is 0xe9"):
        documents(path)
    assert documents(path, encoding_errors="replace") == ["fine", "caf\ufffd"]
    assert documents(path, encoding_errors="keep") == ["fine", "caf\udce9"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('text\n"never closed\nand so on\n', r"a\.csv:\d+: expected CSV, got: unexpected end of data"),
        ('text\n"closed" and more\n', r"a\.csv:2: expected CSV, got: ',' expected after '\"'"),
        ("text\none\rtwo\n", r"a\.csv:2: expected CSV, got: new-line character seen in unquoted field"),
    ],
)
def test_what_is_no_csv_is_named_with_its_line(tmp_path, rows, message):
    (tmp_path / "a.csv").write_text(rows, newline="")
    with pytest.raises(DataError, match=message):
        documents(tmp_path)


@pytest.mark.parametrize("content", ['text\n"' + "x\n" * 10_000, "text\n" + "x" * 10_000])
def test_a_field_without_an_end_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.setattr("transformerlm.data.reading.csv_rows.MAX_PIECE_BYTES", 5000)
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError, match=r"a\.csv.*(larger than field limit|lines of at most 5,000)"):
        documents(tmp_path)
