"""Kinds of files, told by a file's name and its first bytes: a format that is read, or one that is not.

The kind of a compressed file is that of its content with the codec after it, that of a member of an archive
has the archive's format there: "text.gz", "jsonl.zst", "text.zip".
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from transformerlm.config import CorpusConfig
from transformerlm.data.reading.archives import ARCHIVES
from transformerlm.data.reading.streams import CODECS, codec_of
from transformerlm.errors import one_line

TEXT: Final = "text"
JSONL: Final = "jsonl"
CSV: Final = "csv"
HTML: Final = "html"
EPUB: Final = "epub"
PARQUET: Final = "parquet"
ARROW: Final = "arrow"
ARROW_STREAM: Final = "arrow_stream"
"""Arrow's format for streams, which `datasets` writes."""
TABLES: Final = (PARQUET, ARROW, ARROW_STREAM)
FORMATS: Final = (
    *(TEXT, JSONL, CSV, HTML, EPUB, *TABLES),
    *(f"{name}.{codec}" for name in (TEXT, JSONL, CSV, HTML) for codec in (*CODECS, *ARCHIVES)),
)
"""The kinds that are read. Every other kind is a key of REASONS."""

HEAD_BYTES = 8192
"""Bytes at the beginning of a file that tell its kind."""
MAX_LINE_BYTES = 2**20
"""Bytes of a file that are searched for the end of its first two lines, if it begins with "{"."""

MAX_NAMES = 10
"""Names of files that are not read, in a message."""
_MAX_EXAMPLES = 3
_JSONL_SUFFIXES = (".jsonl", ".ndjson")
_CSV_SUFFIXES = (".csv", ".tsv")
_HTML_SUFFIXES = (".html", ".htm", ".xhtml")


class Reason(NamedTuple):
    """Why a kind of file is not read, and what to do about it."""

    what: str
    """Description of the files."""
    advice: str = ""


REASONS: Final[Mapping[str, Reason]] = {
    "hidden": Reason("hidden", "as a corpus of its own each can be read"),
    "output": Reason("written by transformerlm (token files, tokenizers, runs)"),
    "link": Reason("other names of files or folders that are read"),
    "broken": Reason("broken links", "what they point to is missing"),
    "special": Reason("pipes, sockets and devices"),
    "folder": Reason("folders that the glob matches", "**/* at its end takes the files in them"),
    "saved": Reason("descriptions of datasets that `datasets` has saved", "their tables are read"),
    "compressed": Reason(
        "compressed twice, within an archive, or not by gzip, bzip2, xz or Zstandard", "unpack them"
    ),
    "mislabelled": Reason(
        "not what their names say (.gz, .zip, .parquet, ...)", "perhaps empty or text: rename or remove them"
    ),
    "archive": Reason(
        "archives that are no .zip or .tar by their name, lie in others, or are compressed as a whole",
        "unpack them: tar -xf, 7z x; a .tar.gz may become a .tar: gunzip",
    ),
    "member": Reason(
        "under a password, or compressed in a way that is not read, in archives", "unpack the archives"
    ),
    "table": Reason(
        "tables or arrays in binary form, not Parquet or Arrow", "write their text to a .jsonl file"
    ),
    "no_reader": Reason("Parquet or Arrow", "`pip install transformerlm[parquet]` lets them be read"),
    "column": Reason(
        "tables without text in the column that [data].text_field names",
        "--data.text_field=NAME names another; of CSV and TSV, "
        '[data].file_format = "text" reads the files as they are',
    ),
    "document": Reason("documents with layout", "convert them: pdftotext, pandoc -t plain"),
    "utf16": Reason("text in UTF-16 or UTF-32", "convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"),
    "lfs": Reason("pointers of git-lfs", "git lfs pull gets the files themselves"),
    "json": Reason(
        "JSON with documents, but not one per line",
        'write a document per line, as jq -c ".[]" FILE > NEW.jsonl does; '
        '[data].file_format = "text" reads the files as they are',
    ),
    "fields": Reason(
        "JSON lines without text in the field that [data].text_field names",
        'name another field; [data].file_format = "text" reads the files as they are',
    ),
    "binary": Reason("binary", "a NUL byte is among the first 8 KiB"),
}
"""Kind -> reason. The first seven are told by where a file is, the others by its name and content."""

_SUFFIXES = {
    "compressed": ".lzma .lz4 .lz .br .z",
    "archive": ".tgz .tbz2 .txz .7z .rar .jar .whl",
    "table": ".orc .avro .h5 .hdf5 .npy .npz .sqlite",
    "document": ".pdf .docx .xlsx .pptx .odt .ods .odp .mobi .djvu",
}
_KIND_OF_SUFFIX = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}

_MAGIC = {
    "compressed": (b"\x04\x22\x4d\x18", b"\x1f\x9d"),
    "archive": (b"PK\x03\x04", b"PK\x05\x06", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07"),
    "table": (b"FEA1", b"SQLite format 3\0", b"\x89HDF\r\n", b"\x93NUMPY", b"Obj\x01"),
    "document": (b"%PDF-", b"{\\rtf", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    "utf16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE),
    "lfs": (b"version https://git-lfs.github.com/spec/",),
    PARQUET: (b"PAR1",),
    ARROW: (b"ARROW1\0",),
}
"""Kind, one that is not read or a format -> beginnings of its files."""
_TAR_MAGIC, _TAR_PLACE = b"ustar", 257
_MIN_PAIRS = 8  # of bytes, from which text in UTF-16 is told without a byte order mark
_ARROW_STREAM = re.compile(rb"\xff\xff\xff\xff..[\x00-\x7f]\0", re.DOTALL)
_EPUB = re.compile(rb"PK\x03\x04.{26}mimetypeapplication/epub\+zip", re.DOTALL)
_SUFFIXES_WITH_MAGIC = {
    ".parquet",
    ".arrow",
    ".feather",
    ".epub",
    ".zip",
    ".tar",
    *(codec.suffix for codec in CODECS.values()),
}
"""Suffixes of formats whose files begin in a way of their own."""


def kind_by_name(name: str) -> str | None:
    """Return the kind that is told by a file's name alone; None if its content has to be looked at."""
    return _KIND_OF_SUFFIX.get(os.path.splitext(name)[1].lower())  # noqa: PTH122 - of many files


def is_jsonl_name(name: str) -> bool:
    """Return True for the names of JSON lines: `a.jsonl`, `a.ndjson`, in upper case too."""
    return name.lower().endswith(_JSONL_SUFFIXES)


def is_csv_name(name: str) -> bool:
    """Return True for the names of CSV and TSV files."""
    return name.lower().endswith(_CSV_SUFFIXES)


def begins_with_object(head: bytes) -> bool:
    """Return True if more of a file has to be read than its head: it may be JSON with long lines."""
    return head.lstrip()[:1] == b"{" and head.count(b"\n") < 2


def format_of(kind: str) -> str:
    """Return the format of a kind that is read: "jsonl" for "jsonl.zst"."""
    return kind.partition(".")[0]


def codec_of_kind(kind: str) -> str:
    """Return the codec of a kind, as `open_stream` takes it: "zst" for "jsonl.zst"; "" if there is none."""
    return kind.partition(".")[2]


def has_records(kind: str) -> bool:
    """Return True for formats whose documents are read as records (`records.py`), not as bytes of a text."""
    return format_of(kind) not in (TEXT, JSONL)


def is_one_document(kind: str) -> bool:
    """Return True for formats whose files are a document each: web pages and books."""
    return format_of(kind) in (HTML, EPUB)


def is_plain(kind: str) -> bool:
    """Return True if the text is the bytes of the file, of which any part can be read."""
    return kind in (TEXT, JSONL)


def kind_by_content(
    name: str, head: bytes, config: CorpusConfig, *, is_whole: bool, reads_nul: bool = False
) -> str:
    """Return the kind of a file from its beginning, without a byte order mark of UTF-8.

    JSON lines are files with the name of such, and others whose first line is an object with text in
    `config.field_name`; `config.file_format` decides otherwise. A compressed file is "compressed".

    Args:
        head: the first bytes, HEAD_BYTES or more.
        is_whole: `head` is the whole file.
        reads_nul: a file with NUL bytes is not "binary".
    """
    closed = _closed_kind(name, head)
    if closed and not (closed == "binary" and reads_nul):
        return closed
    if config.file_format != "auto":
        return config.file_format
    if named := _kind_of_name(name):
        return named
    return _json_kind(name, head.lstrip(), config.field_name, is_whole=is_whole) or TEXT


def left_out_lines(left_out: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield a line for each kind of files that are not read: kind, number, first names, what to do."""
    for kind, names in left_out.items():
        reason = REASONS[kind]
        line = f"not read: {reason.what}: {len(names):,} ({examples(names, MAX_NAMES)})"
        yield f"{line}; {reason.advice}" if reason.advice else line


def examples(names: Sequence[str], max_number: int = _MAX_EXAMPLES) -> str:
    """Return the first of some names, for a message."""
    shown = [one_line(name) for name in names[:max_number]]
    return ", ".join([*shown, *(["..."] if len(names) > max_number else [])])


def _kind_of_name(name: str) -> str | None:
    """Return the format of text that a name tells."""
    lower = name.lower()
    suffixes = {JSONL: _JSONL_SUFFIXES, CSV: _CSV_SUFFIXES, HTML: _HTML_SUFFIXES}
    return next((kind for kind, endings in suffixes.items() if lower.endswith(endings)), None)


def _closed_kind(name: str, head: bytes) -> str | None:
    """Return the kind of a file that is no UTF-8 text, or a git-lfs pointer; None for others."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - of many files
    if codec_of(head):
        return "compressed"
    if _EPUB.match(head) or (suffix == ".epub" and head.startswith(b"PK\x03\x04")):
        return EPUB
    for kind, beginnings in _MAGIC.items():
        if head.startswith(beginnings):
            return kind
    if _ARROW_STREAM.match(head):
        return ARROW_STREAM
    if head[_TAR_PLACE:].startswith(_TAR_MAGIC):
        return "archive"
    if suffix in _SUFFIXES_WITH_MAGIC:
        return "mislabelled"
    if b"\0" not in head:
        return None
    return "utf16" if _is_utf16(head) else "binary"


def _is_utf16(head: bytes) -> bool:
    """Return True for text in UTF-16 without a byte order mark: every other byte of most characters is 0."""
    pairs = len(head) // 2
    if pairs < _MIN_PAIRS:
        return False
    for first, encoding in ((0, "utf-16-be"), (1, "utf-16-le")):
        if 5 * head[first : 2 * pairs : 2].count(0) > 2 * pairs:
            text = head[: 2 * pairs].decode(encoding, "replace")
            return 10 * sum(c.isprintable() or c.isspace() for c in text) > 9 * len(text)
    return False


def _json_kind(name: str, head: bytes, field: str, *, is_whole: bool) -> str | None:
    """Return the kind of a file that begins with a JSON object or array; None if it is text."""
    if head[:1] not in (b"{", b"["):
        return None
    first, *others = _lines(head, is_whole=is_whole)
    value = _parsed(first)
    if isinstance(value, dict):
        if isinstance(value.get(field), str):
            return JSONL
        if _has_documents(value, field):
            return "json"
        second = next(filter(None, map(bytes.strip, others)), b"")
        is_lines = name.lower().endswith(".json") and isinstance(_parsed(second), dict)
        return "fields" if is_lines else None
    if is_whole:
        return "json" if _has_documents(_parsed(head), field) else None
    has_text = _has_member(head, field, b'"')
    if head[:1] == b"[":
        return "json" if has_text and head[1:].lstrip()[:1] == b"{" else None
    if b"\n" in head:
        return None
    # A first line of more than a megabyte.
    return JSONL if has_text else "json" if _has_member(head, field, b"[") else None


def _lines(head: bytes, *, is_whole: bool) -> Iterable[bytes]:
    """Return the complete lines of a beginning, the first one in any case."""
    lines = head.split(b"\n")
    return lines if is_whole or len(lines) == 1 else lines[:-1]


def _parsed(content: bytes) -> Any:
    """Return a JSON value, or None for bytes that are none."""
    try:
        return json.loads(content.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None


def _has_documents(value: Any, field: str) -> bool:
    """Return True for an object with text in the field, a column of texts, or an array of such objects."""
    if isinstance(value, list):
        return bool(value) and isinstance(value[0], dict) and isinstance(value[0].get(field), str)
    return isinstance(value, dict) and isinstance(value.get(field), str | list)


def _has_member(head: bytes, field: str, value: bytes) -> bool:
    """Return True if a beginning of JSON has the field somewhere, with a value that begins so."""
    name = re.escape(json.dumps(field)) + "|" + re.escape(json.dumps(field, ensure_ascii=False))
    return bool(re.search(rf"(?:{name})\s*:\s*".encode() + re.escape(value), head))
