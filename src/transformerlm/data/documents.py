"""Documents of a corpus, and the split that each belongs to.

The text is read in chunks: some whole documents, or a part of a long one. A chunk is a path and a few
numbers, not text, so that it is cheap to send to a worker process. `chunks.py` divides the corpus.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from transformerlm.config import CorpusConfig
from transformerlm.data.corpus import read_bytes
from transformerlm.data.kinds import JSONL, TEXT, is_jsonl_name
from transformerlm.errors import DataError
from transformerlm.tokenizer.pretokenize import AllowedSpecial, bytes_of, text_of

EncodingErrors = Literal["strict", "replace", "keep"]
"""How bytes that are not UTF-8 are treated: `CorpusConfig.encoding_errors`."""

Split = Literal["train", "val"]
TRAIN: Final = "train"
VAL: Final = "val"

HASHED_CHARACTERS: Final = 2**20
"""Characters at the beginning of a document that determine its split."""

_WHITE_SPACE = " \t\n\r\f\v"
_SURROGATE = re.compile("[\ud800-\udfff]")


Edits = tuple[tuple[int, Split | None], ...]
"""Number of a document of a chunk, from 0, and its split; None: the document is left out."""


class Chunk(NamedTuple):
    """Bytes `start` to `stop` of a file, which can be encoded separately."""

    path: str
    start: int
    stop: int
    split: Split | None
    """None: the split is decided by each document's content."""
    extent: Literal["documents", "part", "end"] = "documents"
    """Some whole documents, a part of a long one, or the end of a long one."""
    kind: str = TEXT
    """Kind of the file: `kinds.TEXT` or `kinds.JSONL`."""
    edits: Edits = ()
    """Documents that are left out or stand in another split (`selection.py`)."""


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
    data = read_bytes(chunk.path, chunk.start, chunk.stop)
    contents: Iterator[bytes]
    allowed_special: AllowedSpecial = "all"
    if chunk.kind == JSONL:
        contents = map(bytes_of, _jsonl_texts(data, chunk, config))
        if not config.jsonl_special_tokens:
            allowed_special = "none"
    else:
        data = _checked(data, chunk, config)
        if chunk.extent != "documents":
            assert chunk.split is not None
            yield Document(chunk.split, data, chunk.extent == "end")
            return
        separator = config.document_separator.encode()
        contents = iter(data.split(separator) if separator else [data])
    for content in contents:
        if content.strip(_WHITE_SPACE.encode()):
            split = chunk.split or split_of_utf8(content, config.validation_fraction)
            yield Document(split, content, True, allowed_special)


def _checked(data: bytes, chunk: Chunk, config: CorpusConfig) -> bytes:
    """Return the bytes; those that are not UTF-8 are treated according to [data].encoding_errors."""
    if config.encoding_errors == "keep":
        return data
    text = decode(data, chunk.path, chunk.start, config.encoding_errors)
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


def decode(data: bytes, path: str, start: int, errors: EncodingErrors) -> str:
    """Decode bytes of the file `path` from byte `start` on; with "keep", invalid bytes as in `text_of`.

    Raises:
        DataError: the bytes are not UTF-8, and `errors` is "strict".
    """
    return decode_beginning(data, path, start, errors, is_whole=True)[0]


def decode_beginning(
    data: bytes, path: str, start: int, errors: EncodingErrors, *, is_whole: bool = False
) -> tuple[str, int]:
    """Decode bytes that may end within a character; return the text and the number of bytes decoded.

    An incomplete last character is left out, unless the bytes are the whole of what there is to decode.
    """
    try:
        return codecs.utf_8_decode(data, "surrogateescape" if errors == "keep" else errors, is_whole)
    except UnicodeDecodeError as error:
        wrong = f"byte {start + error.start} is 0x{data[error.start]:02x} ({error.reason})"
        advice = 'set [data].encoding_errors = "replace" to read such bytes as U+FFFD, "keep" to keep them'
        raise DataError(f"{path}: expected UTF-8, but {wrong}; {advice}") from None


def _jsonl_texts(data: bytes, chunk: Chunk, config: CorpusConfig) -> Iterator[str]:
    start = chunk.start
    for line in data.split(b"\n"):
        text = decode(line, chunk.path, start, config.encoding_errors)
        if not is_blank(text):
            try:
                document = _text_of_line(text, config)
            except ValueError as error:
                raise DataError(_place_and_advice(chunk.path, start, str(error))) from None
            yield document
        start += len(line) + 1


def _place_and_advice(path: str, start: int, what: str) -> str:
    advice = "" if is_jsonl_name(path) else '; [data].file_format = "text" reads the file as it is'
    return f"{path}:{_line_number(path, start)}: {what}{advice}"


def _line_number(path: str, start: int) -> int:
    """Return the number of the line that begins at byte `start`, from 1, by reading all before it."""
    blocks = range(0, start, 2**20)
    return 1 + sum(read_bytes(path, block, min(block + 2**20, start)).count(b"\n") for block in blocks)


def _text_of_line(line: str, config: CorpusConfig) -> str:
    """Return the document in a line of JSON; ValueError if there is none."""
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"expected a JSON object, got: {error.msg} at character {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or very deep nesting
        raise ValueError(f"expected a JSON object, got: {error}") from None
    text = values.get(config.jsonl_field) if isinstance(values, dict) else None
    if not isinstance(text, str):
        raise ValueError(f'expected text in field "{config.jsonl_field}", got {_found(values, config)}')
    return _without_surrogates(text, line, config) if _SURROGATE.search(text) else text


def _without_surrogates(text: str, line: str, config: CorpusConfig) -> str:
    """Replace or refuse halves of surrogate pairs, which are not Unicode text."""
    if config.encoding_errors == "replace":
        return _SURROGATE.sub("\ufffd", text)
    # Surrogates that stand for kept bytes are in the line itself; one that is written \ud8xx in JSON is not.
    written = json.loads(_SURROGATE.sub("\ufffd", line))[config.jsonl_field]
    if _SURROGATE.search(written):
        advice = '[data].encoding_errors = "replace" reads U+FFFD for it'
        raise ValueError(f"expected Unicode, got half of a surrogate pair (\\ud8xx); {advice}")
    return text


def _found(values: Any, config: CorpusConfig) -> str:
    """Describe what a line of JSON has instead of text in the field."""
    if not isinstance(values, dict):
        return f"no object but {type(values).__name__}"
    if config.jsonl_field in values:
        return f"{json.dumps(values[config.jsonl_field])[:40]}"
    return f"only the fields {', '.join(values) or '(none)'}; --data.jsonl_field=NAME names it"
