"""From bytes of a corpus to documents: what a document is, and which split it belongs to.

A piece is the unit of work: some whole documents, or a part of one that is long. It is a few numbers,
not text, so that a process anywhere can be told to read it. Where pieces end is `pieces.py`'s business.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

from transformerlm.config import CorpusConfig
from transformerlm.data.corpus import read_bytes
from transformerlm.errors import DataError
from transformerlm.tokenizer.pretokenize import bytes_of, text_of

EncodingErrors = Literal["strict", "replace", "keep"]
"""What becomes of bytes that are not UTF-8, as `CorpusConfig.encoding_errors` says."""

Split = Literal["train", "val"]
TRAIN: Final = "train"
VAL: Final = "val"

HASHED_CHARACTERS: Final = 2**20
"""How much of a document decides which split it belongs to."""

_WHITE_SPACE = " \t\n\r\f\v"
_SURROGATE = re.compile("[\ud800-\udfff]")


class Piece(NamedTuple):
    """Bytes `start` to `stop` of a file, divided from the rest without harm."""

    path: str
    start: int
    stop: int
    split: Split | None
    """None: each document's content decides."""
    extent: Literal["documents", "part", "end"] = "documents"
    """Some whole documents, a part of a long one, or the end of a long one."""


class Document(NamedTuple):
    """A document, or a part of a long one."""

    split: Split
    utf8: bytes
    """Its text: UTF-8, and what else was in the file where the config says that such bytes are kept."""
    is_end: bool
    """Whether the document ends with this text."""

    @property
    def text(self) -> str:
        """Its text; bytes that are not UTF-8 are in it as `text_of` has them."""
        return text_of(self.utf8)


def is_jsonl(path: str) -> bool:
    """Whether a file holds one document a line, in JSON."""
    return path.endswith(".jsonl")


def documents_of(piece: Piece, config: CorpusConfig) -> Iterator[Document]:
    """Read a piece. A document with nothing in it but white space (ASCII's) is none.

    Raises:
        DataError: the text cannot be read as the config says it is.
    """
    data = read_bytes(piece.path, piece.start, piece.stop)
    contents: Iterator[bytes]
    if is_jsonl(piece.path):
        contents = map(bytes_of, _jsonl_texts(data, piece, config))
    else:
        data = _checked(data, piece, config)
        if piece.extent != "documents":
            assert piece.split is not None
            yield Document(piece.split, data, piece.extent == "end")
            return
        separator = config.document_separator.encode()
        contents = iter(data.split(separator) if separator else [data])
    for content in contents:
        if content.strip(_WHITE_SPACE.encode()):
            yield Document(piece.split or split_of_utf8(content, config.validation_fraction), content, True)


def _checked(data: bytes, piece: Piece, config: CorpusConfig) -> bytes:
    if config.encoding_errors == "keep":
        return data
    text = decode(data, piece.path, piece.start, config.encoding_errors)
    return data if config.encoding_errors == "strict" or "\ufffd" not in text else text.encode()


def is_blank(text: str) -> bool:
    """Whether there is nothing in `text` but white space (ASCII's)."""
    return not text.strip(_WHITE_SPACE)


def split_by_content(text: str, validation_fraction: float) -> Split:
    """The split of a document: a hash of its beginning, as a number from 0 to 1, against the fraction.

    It depends on nothing else, so that a document stays on its side when others come, go or are
    reordered, and all copies of it are on one side.
    """
    return split_of_utf8(bytes_of(text[:HASHED_CHARACTERS]), validation_fraction)


def split_of_utf8(content: bytes, validation_fraction: float) -> Split:
    """The same of a document's bytes."""
    if len(content) > HASHED_CHARACTERS:  # no character takes more than four bytes
        content = bytes_of(text_of(content[: 4 * HASHED_CHARACTERS])[:HASHED_CHARACTERS])
    digest = hashlib.blake2b(content, digest_size=8, person=b"validation split").digest()
    return VAL if int.from_bytes(digest, "big") < validation_fraction * 2**64 else TRAIN


def decode(data: bytes, path: str, start: int, errors: EncodingErrors) -> str:
    """The text of a file's bytes from `start` on; those that are kept are in it as `text_of` has them.

    Raises:
        DataError: bytes that are not UTF-8, where `errors` is "strict".
    """
    return decode_beginning(data, path, start, errors, is_whole=True)[0]


def decode_beginning(
    data: bytes, path: str, start: int, errors: EncodingErrors, *, is_whole: bool = False
) -> tuple[str, int]:
    """The same of bytes that may end within a character: also how many of them the text is made of.

    A last character that is not complete is left out, unless the bytes are the whole.
    """
    try:
        return codecs.utf_8_decode(data, "surrogateescape" if errors == "keep" else errors, is_whole)
    except UnicodeDecodeError as error:
        wrong = f"byte {start + error.start} is 0x{data[error.start]:02x} ({error.reason})"
        advice = 'set [data].encoding_errors = "replace" to read such bytes as U+FFFD, "keep" to keep them'
        raise DataError(f"{path}: expected UTF-8, but {wrong}; {advice}") from None


def _jsonl_texts(data: bytes, piece: Piece, config: CorpusConfig) -> Iterator[str]:
    start = piece.start
    for line in data.split(b"\n"):
        text = decode(line, piece.path, start, config.encoding_errors)
        if not is_blank(text):
            try:
                document = _text_of_line(text, config)
            except ValueError as error:
                raise DataError(f"{piece.path}:{_line_number(piece.path, start)}: {error}") from None
            yield document
        start += len(line) + 1


def _line_number(path: str, start: int) -> int:
    """The number of the line that begins at byte `start`; only an error needs it, so it is counted then."""
    blocks = range(0, start, 2**20)
    return 1 + sum(read_bytes(path, block, min(block + 2**20, start)).count(b"\n") for block in blocks)


def _text_of_line(line: str, config: CorpusConfig) -> str:
    """The document in a line of JSON; ValueError says what is wrong with it."""
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"expected a JSON object, got: {error.msg} at character {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, endless nesting
        raise ValueError(f"expected a JSON object, got: {error}") from None
    text = values.get(config.jsonl_field) if isinstance(values, dict) else None
    if not isinstance(text, str):
        raise ValueError(f'expected text in field "{config.jsonl_field}", got {_found(values, config)}')
    return _without_surrogates(text, line, config) if _SURROGATE.search(text) else text


def _without_surrogates(text: str, line: str, config: CorpusConfig) -> str:
    if config.encoding_errors == "replace":
        return _SURROGATE.sub("\ufffd", text)
    # Where bytes are kept, those that stand for bytes are in the line too. What is written \ud8xx is no byte.
    written = json.loads(_SURROGATE.sub("\ufffd", line))[config.jsonl_field]
    if _SURROGATE.search(written):
        advice = '[data].encoding_errors = "replace" reads U+FFFD for it'
        raise ValueError(f"expected Unicode, got half of a surrogate pair (\\ud8xx); {advice}")
    return text


def _found(values: Any, config: CorpusConfig) -> str:
    if not isinstance(values, dict):
        return f"no object but {type(values).__name__}"
    if config.jsonl_field in values:
        return f"{json.dumps(values[config.jsonl_field])[:40]}"
    return f"only the fields {', '.join(values) or '(none)'}; [data].jsonl_field names it"
