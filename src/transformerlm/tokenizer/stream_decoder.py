"""Decoding ids one by one, for text that is shown while it is generated."""

from __future__ import annotations

import codecs

from transformerlm.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    """Incremental decoder: returns text id by id, each character once its last byte is known."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """Return the text that `token_id` completes; "" within a character."""
        return self._decoder.decode(self.tokenizer.decode_bytes([token_id]))

    def flush(self) -> str:
        """Return the rest at the end, U+FFFD for an incomplete character, else ""; reset the decoder."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
