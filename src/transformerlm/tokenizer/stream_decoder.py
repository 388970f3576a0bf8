"""Decoding ids one by one, for text that is shown while it is being made."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformerlm.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    """Decodes ids one by one, and holds back a character until its last byte is there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """The text that `token_id` completes: "" while it is within a character."""
        return self._decoder.decode(self.tokenizer.decode_bytes([token_id]))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never completed, else ""."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
