"""What files hold, told by names and first bytes; the files are made by programs that write such files."""

import bz2
import gzip
import io
import json
import lzma
import shutil
import sqlite3
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest

from transformerlm.config import CorpusConfig
from transformerlm.data.corpus import find_corpus
from transformerlm.data.kinds import FORMATS, HEAD_BYTES, MAX_LINE_BYTES, REASONS
from transformerlm.errors import DataError

TEXT = "The cat sat on the mat, isn't it? Äsop, 漢字.\n"
GZIPPED = gzip.compress(TEXT.encode(), mtime=0)  # the time would be in the names of tests, and differ
LINES = "".join(json.dumps({"text": TEXT, "id": number}) + "\n" for number in range(3))


@pytest.fixture
def kind(tmp_path):
    """The kind of a file of this name and content; beside it is a text, so that the folder is a corpus."""

    def of(content, name="a.txt", **settings):
        (tmp_path / "beside.txt").write_text(TEXT)
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        corpus = find_corpus(str(tmp_path), CorpusConfig(**settings))
        (found,) = [source for source in (*corpus.sources, *corpus.unread) if source.name == name]
        assert (found in corpus.sources) == (found.kind in FORMATS)
        return found.kind

    return of


def tar(**options):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = len(TEXT.encode())
        archive.addfile(member, io.BytesIO(TEXT.encode()))
    return file.getvalue()


def zipped(name="a.txt"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, TEXT)
    return file.getvalue()


def array():
    file = io.BytesIO()
    np.save(file, np.arange(9))
    return file.getvalue()


def database(tmp_path):
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("create table t (x)")
    return (tmp_path / "x.db").read_bytes()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GZIPPED, "text.gz"),
        (bz2.compress(TEXT.encode()), "text.bz2"),
        (bz2.compress(b""), "text.bz2"),
        (lzma.compress(TEXT.encode()), "text.xz"),
        (gzip.compress(GZIPPED), "compressed"),
        (gzip.compress(zipped()), "archive"),
        (gzip.compress(tar(format=tarfile.GNU_FORMAT)), "archive"),
        (gzip.compress(array()), "table"),
        (gzip.compress(TEXT.encode("utf-16")), "utf16"),
        (gzip.compress(b"\x7fELF\2\1\1\0"), "binary"),
        (lzma.compress(TEXT.encode(), lzma.FORMAT_ALONE), "binary"),
        (zipped(), "archive"),
        (tar(format=tarfile.USTAR_FORMAT), "archive"),
        (tar(format=tarfile.GNU_FORMAT), "archive"),
        (array(), "table"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "document"),
        (rb"{\rtf1\ansi A text.}", "document"),
        (b"\x7fELF\2\1\1\0", "binary"),
        (TEXT.encode("utf-16"), "utf16"),
        (TEXT.encode("utf-16-le"), "utf16"),
        (TEXT.encode("utf-16-be"), "utf16"),
        (TEXT.encode("utf-32"), "utf16"),
        ("\ufeff".encode("utf-16-be") + TEXT.encode("utf-16-be"), "utf16"),
        (np.arange(4000, dtype="<i2").tobytes(), "binary"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "lfs"),
        (TEXT, "text"),
        ("BZh is how bzip2's files begin.", "text"),
        ("", "text"),
        (b"caf\xe9", "text"),  # not UTF-8: reading says where
    ],
    # gzip writes the time: workers of pytest would not agree on a name made of the content.
    ids=lambda value: "content" if isinstance(value, bytes) else None,
)
def test_first_bytes_tell_what_is_no_text(kind, content, expected):
    assert kind(content, "a.txt") == expected


def test_a_database_is_a_table(kind, tmp_path):
    assert kind(database(tmp_path), "x.db") == "table"


@pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not installed")
def test_zstd_is_told(kind):
    done = subprocess.run(["zstd", "-c"], input=TEXT.encode(), capture_output=True, check=True)
    assert kind(done.stdout) == "text.zst"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.Z", "compressed"),
        ("a.7z", "archive"),
        ("a.docx", "document"),
        ("a.PDF", "document"),
    ],
)
def test_names_tell_it_too_and_no_setting_has_it_read(kind, name, expected):
    assert kind("x", name) == expected
    assert kind(zipped(), name, file_format="text") == expected
    assert kind("", name, file_format="jsonl") == expected


@pytest.mark.parametrize(
    "name", ["a.txt.GZ", "a.zst", "a.jsonl.gz", "a.parquet", "a.feather", "a.epub", "a.zip", "a.tar"]
)
def test_what_is_not_what_its_name_says_is_named(kind, name):
    assert kind("x", name) == kind("", name) == "mislabelled"
    assert kind("x", name, file_format="text") == "mislabelled"
    assert kind(TEXT.encode("utf-16-le"), name) == "mislabelled"
    assert kind(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", name) == "lfs"


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL", "a.ndjson", "a.json", "a.txt", "a"])
@pytest.mark.parametrize("before", ["", "\ufeff", "\n \r\n"])
def test_lines_of_json_are_told_by_name_or_content(kind, name, before):
    assert kind(before + LINES, name) == "jsonl"
    assert kind(before + LINES, name, file_format="text") == "text"
    is_named = name.lower().endswith((".jsonl", ".ndjson"))
    other = "jsonl" if is_named else "fields" if name == "a.json" else "text"
    assert kind(before + LINES, name, jsonl_field="body") == other


@pytest.mark.parametrize("length", [100, HEAD_BYTES, MAX_LINE_BYTES])
@pytest.mark.parametrize("first", ["text", "é"])
def test_a_first_line_may_be_long(kind, length, first):
    line = json.dumps({first: "x" * length, "id": 1}) + "\n"
    assert kind(line * 2, "a.json", jsonl_field=first) == "jsonl"
    assert kind(line * 2, "a.json", jsonl_field="id") == (
        "fields" if length < MAX_LINE_BYTES // 4 else "text"
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([{"text": TEXT}, {"text": TEXT}], "json"),
        ([{"id": 1, "text": TEXT}], "json"),
        ([{"text": "x" * HEAD_BYTES}], "json"),
        ({"text": [TEXT, TEXT]}, "json"),
        ({"text": ["x" * 2 * MAX_LINE_BYTES]}, "json"),
        ({"name": "a-package", "version": "1.0"}, "text"),
        ([1, 2, 3], "text"),
        ([], "text"),
        ([{"name": "x" * HEAD_BYTES}], "text"),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_json_with_documents_that_are_not_lines_is_named_and_other_json_is_text(
    kind, value, expected, indent
):
    if indent and len(json.dumps(value)) > MAX_LINE_BYTES:
        return
    assert kind(json.dumps(value, indent=indent), "a.json") == expected


def test_a_document_in_json_over_several_lines_is_named(kind):
    assert kind(json.dumps({"text": TEXT}, indent=2), "a.json") == "json"
    assert kind(json.dumps({"text": TEXT}), "a.json") == "jsonl"


@pytest.mark.parametrize(
    "content", ["{", "[", "{}", "[[" * 5000, '{"text": 1}', "{\n", '{"text": "x"', "{\0"]
)
def test_what_only_begins_like_json_is_text(kind, content):
    assert kind(content, "a.txt") == ("binary" if "\0" in content else "text")


def test_jsonl_asked_for_by_name_is_read_whatever_it_is_called(kind):
    assert kind('{"body": 1}', "a.txt", file_format="jsonl") == "jsonl"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(GZIPPED, mtime=0), f"not read: {REASONS['compressed'].what}: 1 (a.txt); unpack them"),
        (TEXT.encode("utf-16"), "not read: text in UTF-16 or UTF-32: 1 (a.txt); convert it: iconv"),
        (zipped(), f"not read: {REASONS['archive'].what}: 1 (a.txt); unpack them: tar -xf"),
        (
            json.dumps([{"text": "x"}]).encode(),
            "not read: JSON with documents, but not one per line: 1 (a.txt)",
        ),
    ],
)
@pytest.mark.parametrize("encoding_errors", ["strict", "replace", "keep"])
def test_a_file_that_is_named_and_no_text_is_an_error_that_says_what_to_do(
    tmp_path, content, message, encoding_errors
):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        find_corpus(str(path), CorpusConfig(encoding_errors=encoding_errors))
    assert caught.value.lines[0] == f"[data].corpus: expected text, got {path}"
    assert caught.value.lines[1].startswith(f"[data].corpus: {message}")


def test_a_file_with_nul_bytes_that_is_named_is_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\0b")
    (source,) = find_corpus(str(tmp_path / "a.txt"), CorpusConfig()).sources
    assert source.kind == "text"


def test_what_is_read_otherwise_than_by_its_name_is_said(tmp_path):
    for name in ("a.json", "b.ndjson", "c.jsonl", "d.txt"):
        (tmp_path / name).write_text(LINES)
    (line,) = find_corpus(str(tmp_path), CorpusConfig()).notes()
    assert line.startswith("read as JSON lines, by their content: 2 (a.json, d.txt); ")


def test_every_reason_is_a_kind_of_its_own():
    assert not set(REASONS) & set(FORMATS)
    assert len({reason.what for reason in REASONS.values()}) == len(REASONS)
