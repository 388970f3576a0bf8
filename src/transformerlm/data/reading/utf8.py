"""Bytes to text; an error names the place of what is no UTF-8."""

from __future__ import annotations

import codecs
from typing import Literal

from transformerlm.errors import DataError

EncodingErrors = Literal["strict", "replace", "keep"]
"""How bytes that are not UTF-8 are treated: `CorpusConfig.encoding_errors`."""


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
