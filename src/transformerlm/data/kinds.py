"""Kinds of files, told by a file's name and its first bytes: text, JSON lines, or a kind that is not read."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from transformerlm.config import CorpusConfig
from transformerlm.errors import one_line

TEXT: Final = "text"
JSONL: Final = "jsonl"
FORMATS: Final = (TEXT, JSONL)
"""The kinds that are read. Every other kind is a key of REASONS."""

HEAD_BYTES = 8192
"""Bytes at the beginning of a file that tell its kind."""
MAX_LINE_BYTES = 2**20
"""Bytes of a file that are searched for the end of its first two lines, if it begins with "{"."""

_MAX_EXAMPLES = 3
_JSONL_SUFFIXES = (".jsonl", ".ndjson")


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
    "compressed": Reason("compressed", "decompress them: gunzip, bunzip2, unxz, unzstd"),
    "archive": Reason("archives", "unpack them: unzip, tar -xf, 7z x"),
    "table": Reason("tables or arrays in binary form", "write their text to a .jsonl file"),
    "document": Reason("documents with layout", "convert them: pdftotext, pandoc -t plain"),
    "utf16": Reason("text in UTF-16 or UTF-32", "convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"),
    "lfs": Reason("pointers of git-lfs", "git lfs pull gets the files themselves"),
    "json": Reason(
        "JSON with documents, but not one per line",
        'write a document per line, as jq -c ".[]" FILE > NEW.jsonl does; '
        '[data].file_format = "text" reads the files as they are',
    ),
    "fields": Reason(
        "JSON lines without text in the field that [data].jsonl_field names",
        'name another field; [data].file_format = "text" reads the files as they are',
    ),
    "binary": Reason("binary", "a NUL byte is among the first 8 KiB"),
}
"""Kind -> reason. The first six are told by where a file is, the others by its name and content."""

_SUFFIXES = {
    "compressed": ".gz .bz2 .xz .zst .lzma .lz4 .lz .br .z",
    "archive": ".zip .tar .tgz .tbz2 .txz .7z .rar .jar .whl",
    "table": ".parquet .arrow .feather .orc .avro .h5 .hdf5 .npy .npz .sqlite",
    "document": ".pdf .docx .xlsx .pptx .odt .ods .odp .epub .mobi .djvu",
}
_KIND_OF_SUFFIX = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}

_MAGIC = {
    "compressed": (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"\x1f\x9d"),
    "archive": (b"PK\x03\x04", b"PK\x05\x06", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07"),
    "table": (b"PAR1", b"ARROW1\0", b"SQLite format 3\0", b"\x89HDF\r\n", b"\x93NUMPY", b"Obj\x01"),
    "document": (b"%PDF-", b"{\\rtf", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    "utf16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE),
    "lfs": (b"version https://git-lfs.github.com/spec/",),
}
_TAR_MAGIC, _TAR_PLACE = b"ustar", 257
_MIN_PAIRS = 8  # of bytes, from which text in UTF-16 is told without a byte order mark
_BZIP2 = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")


def kind_by_name(name: str) -> str | None:
    """Return the kind that is told by a file's name alone; None if its content has to be looked at."""
    return _KIND_OF_SUFFIX.get(os.path.splitext(name)[1].lower())  # noqa: PTH122 - of many files


def is_jsonl_name(name: str) -> bool:
    """Return True for the names of JSON lines: `a.jsonl`, `a.ndjson`, in upper case too."""
    return name.lower().endswith(_JSONL_SUFFIXES)


def begins_with_object(head: bytes) -> bool:
    """Return True if more of a file has to be read than its head: it may be JSON with long lines."""
    return head.lstrip()[:1] == b"{" and head.count(b"\n") < 2


def kind_by_content(name: str, head: bytes, config: CorpusConfig, *, is_whole: bool) -> str:
    """Return the kind of a file from its beginning, without a byte order mark of UTF-8.

    JSON lines are files with the name of such, and others whose first line is an object with text in
    `config.jsonl_field`; `config.file_format` decides otherwise.

    Args:
        head: the first bytes, HEAD_BYTES or more.
        is_whole: `head` is the whole file.
    """
    closed = _closed_kind(head)
    if closed:
        return closed
    if config.file_format != "auto":
        return config.file_format
    if is_jsonl_name(name):
        return JSONL
    return _json_kind(name, head.lstrip(), config.jsonl_field, is_whole=is_whole) or TEXT


def left_out_lines(left_out: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield a line for each kind of files that are not read: kind, number, first names, what to do."""
    for kind, names in left_out.items():
        reason = REASONS[kind]
        line = f"not read: {reason.what}: {len(names):,} ({examples(names)})"
        yield f"{line}; {reason.advice}" if reason.advice else line


def examples(names: Sequence[str]) -> str:
    """Return the first of some names, for a message."""
    shown = [one_line(name) for name in names[:_MAX_EXAMPLES]]
    return ", ".join([*shown, *(["..."] if len(names) > _MAX_EXAMPLES else [])])


def _closed_kind(head: bytes) -> str | None:
    """Return the kind of a file that is no UTF-8 text, or a git-lfs pointer; None for others."""
    for kind, beginnings in _MAGIC.items():
        if head.startswith(beginnings) and not (head.startswith(b"BZh") and not _BZIP2.match(head)):
            return kind
    if head[_TAR_PLACE:].startswith(_TAR_MAGIC):
        return "archive"
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
