"""Documents of a corpus, and the split that each belongs to.

The text is read in chunks: some whole documents, or a part of a long one. A chunk of a plain file is a path
and a few numbers, not text, so that it is cheap to send to a worker process; one of a file that can only be
read from its beginning carries its text. `chunks.py` divides the corpus.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from transformerlm.config import CorpusConfig
from transformerlm.data.kinds import JSONL, TEXT, codec_of_kind, format_of, is_jsonl_name
from transformerlm.data.reading.plain import read_bytes
from transformerlm.data.reading.streams import blocks, inner_name, open_stream
from transformerlm.data.reading.utf8 import EncodingErrors as EncodingErrors
from transformerlm.data.reading.utf8 import decode
from transformerlm.errors import DataError
from transformerlm.tokenizer.pretokenize import AllowedSpecial, bytes_of, text_of

Split = Literal["train", "val"]
TRAIN: Final = "train"
VAL: Final = "val"

HASHED_CHARACTERS: Final = 2**20
"""Characters at the beginning of a document that determine its split."""

_WHITE_SPACE = " \t\n\r\f\v"
_SURROGATE = re.compile("[\ud800-\udfff]")


Edits = tuple[tuple[int, Split | None], ...]
"""Number of a document of a chunk, from 0, and its split; None: the document is left out."""


class Place(NamedTuple):
    """Place in a corpus, from which its division into chunks can be continued."""

    region: int = 0
    """Index of a region of the corpus (`split.regions`)."""
    num_chunks: int = 0
    """Chunks of the region before the place."""


class Chunk(NamedTuple):
    """Bytes `start` to `stop` of a text, which can be encoded separately."""

    path: str
    start: int
    stop: int
    split: Split | None
    """None: the split is decided by each document's content."""
    extent: Literal["documents", "part", "end"] = "documents"
    """Some whole documents, a part of a long one, or the end of a long one."""
    kind: str = TEXT
    """Kind of the file: one of `kinds.FORMATS`."""
    content: bytes | tuple[bytes, ...] | None = None
    """The bytes, or documents of a file of records; None: they can be read from the file."""
    file_bytes: int | None = None
    """Bytes of the file that these take there; None: as many as in the text."""
    end: Place = Place()
    """Place after the chunk in the corpus that is divided, which names the chunk too."""
    edits: Edits = ()
    """Documents that are left out or stand in another split (`selection.py`)."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the text."""
        return self.stop - self.start

    @property
    def num_read(self) -> int:
        """Bytes of the file, for progress: those of all chunks of a file are its size, about."""
        return self.num_bytes if self.file_bytes is None else self.file_bytes

    @property
    def where(self) -> str:
        """The file, for errors, and whether positions are those of its bytes."""
        return f"{self.path} (unpacked)" if codec_of_kind(self.kind) else self.path


class Document(NamedTuple):
    """Text of a document, or of a part of a long one."""

    split: Split
    utf8: bytes
    """The text as UTF-8; with `encoding_errors = "keep"` other bytes too."""
    is_end: bool
    """True if the document ends with this text."""
    allowed_special: AllowedSpecial = "all"
    """Special tokens that are recognised in the text; others are ordinary text."""

    @property
    def text(self) -> str:
        """The text as a string; bytes that are not UTF-8 become surrogates (see `text_of`)."""
        return text_of(self.utf8)


def documents_of(chunk: Chunk, config: CorpusConfig) -> Iterator[Document]:
    """Read a chunk and yield its documents, without those that are nothing but ASCII white space.

    Raises:
        DataError: the text does not have the format that the config describes.
    """
    found = _all_documents(chunk, config)
    return _edited(found, dict(chunk.edits)) if chunk.edits else found


def _edited(documents: Iterator[Document], edits: Mapping[int, Split | None]) -> Iterator[Document]:
    for number, document in enumerate(documents):
        split = edits.get(number, document.split)
        if split is not None:
            yield document._replace(split=split)


def _all_documents(chunk: Chunk, config: CorpusConfig) -> Iterator[Document]:
    allowed_special: AllowedSpecial = "all"
    if format_of(chunk.kind) != TEXT and not config.jsonl_special_tokens:
        allowed_special = "none"
    if chunk.extent != "documents":
        assert chunk.split is not None
        yield Document(chunk.split, _checked(_data(chunk), chunk, config), chunk.extent == "end")
        return
    for content in _contents(chunk, config):
        if content and not content.isspace():  # white space of ASCII, as in `is_blank`
            split = chunk.split or split_of_utf8(content, config.validation_fraction)
            yield Document(split, content, True, allowed_special)


def _contents(chunk: Chunk, config: CorpusConfig) -> Iterable[bytes]:
    """Return the whole documents in a chunk, blank ones too."""
    if isinstance(chunk.content, tuple):
        return chunk.content
    if format_of(chunk.kind) == JSONL:
        return map(bytes_of, _jsonl_texts(_data(chunk), chunk, config))
    data, separator = _data(chunk), config.document_separator.encode()
    if separator and config.encoding_errors == "strict":
        return _strict(data.split(separator), separator, chunk)
    data = _checked(data, chunk, config)
    return data.split(separator) if separator else [data]


def _strict(documents: list[bytes], separator: bytes, chunk: Chunk) -> list[bytes]:
    """Return documents, all of which are UTF-8: only those that are not ASCII have to be decoded for it."""
    start = chunk.start
    for content in documents:
        if not content.isascii():
            decode(content, chunk.where, start, "strict")
        start += len(content) + len(separator)
    return documents


def _data(chunk: Chunk) -> bytes:
    """Return the bytes of a chunk of text or of lines of JSON."""
    if isinstance(chunk.content, bytes):
        return chunk.content
    return read_bytes(chunk.path, chunk.start, chunk.stop)


def _checked(data: bytes, chunk: Chunk, config: CorpusConfig) -> bytes:
    """Return the bytes; those that are not UTF-8 are treated according to [data].encoding_errors."""
    if config.encoding_errors == "keep" or data.isascii():
        return data
    text = decode(data, chunk.where, chunk.start, config.encoding_errors)
    return data if config.encoding_errors == "strict" or "\ufffd" not in text else text.encode()


def is_blank(text: str) -> bool:
    """Return True if `text` is nothing but ASCII white space."""
    return not text.strip(_WHITE_SPACE)


def split_by_content(text: str, validation_fraction: float) -> Split:
    """Return the split of a document: "val" if a hash of its beginning, from 0 to 1, is below the fraction.

    It depends on nothing else, so a document stays in its split when others are added, removed or reordered,
    and all copies of a document are in one split.
    """
    return split_of_utf8(bytes_of(text[:HASHED_CHARACTERS]), validation_fraction)


def split_of_utf8(content: bytes, validation_fraction: float) -> Split:
    """Return the split of a document as `split_by_content` does, from the document's bytes."""
    if len(content) > HASHED_CHARACTERS:  # no character takes more than four bytes
        content = bytes_of(text_of(content[: 4 * HASHED_CHARACTERS])[:HASHED_CHARACTERS])
    digest = hashlib.blake2b(content, digest_size=8, person=b"validation split").digest()
    return VAL if int.from_bytes(digest, "big") < validation_fraction * 2**64 else TRAIN


def _jsonl_texts(data: bytes, chunk: Chunk, config: CorpusConfig) -> Iterator[str]:
    start = chunk.start
    for line in data.split(b"\n"):
        text = decode(line, chunk.where, start, config.encoding_errors)
        if not is_blank(text):
            try:
                document = _text_of_line(text, config)
            except ValueError as error:
                raise DataError(_place_and_advice(chunk, start, str(error), config)) from None
            yield document
        start += len(line) + 1


def _place_and_advice(chunk: Chunk, start: int, what: str, config: CorpusConfig) -> str:
    is_named = is_jsonl_name(inner_name(chunk.path))
    advice = "" if is_named else '; [data].file_format = "text" reads the file as it is'
    return f"{chunk.path}:{_line_number(chunk, start, config)}: {what}{advice}"


def _line_number(chunk: Chunk, start: int, config: CorpusConfig) -> int:
    """Return the number of the line that begins at byte `start`, from 1, by reading all before it."""
    number, position = 1, 0
    with open_stream(chunk.path, codec_of_kind(chunk.kind), config.max_unpacked_bytes) as stream:
        for block in blocks(stream):
            number += block.count(b"\n", 0, max(0, start - position))
            position += len(block)
            if position >= start:
                break
    return number


def _text_of_line(line: str, config: CorpusConfig) -> str:
    """Return the document in a line of JSON; ValueError if there is none."""
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"expected a JSON object, got: {error.msg} at character {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or very deep nesting
        raise ValueError(f"expected a JSON object, got: {error}") from None
    text = values.get(config.field_name) if isinstance(values, dict) else None
    if not isinstance(text, str):
        raise ValueError(f'expected text in field "{config.field_name}", got {_found(values, config)}')
    return _without_surrogates(text, line, config) if _SURROGATE.search(text) else text


def _without_surrogates(text: str, line: str, config: CorpusConfig) -> str:
    """Replace or refuse halves of surrogate pairs, which are not Unicode text."""
    if config.encoding_errors == "replace":
        return _SURROGATE.sub("\ufffd", text)
    # Surrogates that stand for kept bytes are in the line itself; one that is written \ud8xx in JSON is not.
    written = json.loads(_SURROGATE.sub("\ufffd", line))[config.field_name]
    if _SURROGATE.search(written):
        advice = '[data].encoding_errors = "replace" reads U+FFFD for it'
        raise ValueError(f"expected Unicode, got half of a surrogate pair (\\ud8xx); {advice}")
    return text


def _found(values: Any, config: CorpusConfig) -> str:
    """Describe what a line of JSON has instead of text in the field."""
    if not isinstance(values, dict):
        return f"no object but {type(values).__name__}"
    if config.field_name in values:
        return f"{json.dumps(values[config.field_name])[:40]}"
    return f"only the fields {', '.join(values) or '(none)'}; --data.text_field=NAME names it"
