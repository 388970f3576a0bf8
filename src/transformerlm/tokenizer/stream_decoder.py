"""Decoding ids one by one, for text that is shown while it is generated."""

from __future__ import annotations

import codecs

from transformerlm.tokenizer.decode_steps import TextDecoder
from transformerlm.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    """Incremental decoder: returns text id by id, each character once its last byte is known.

    Where characters that a vocabulary lacks are tokens of bytes, a row of these is known at its end.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._start()

    def feed(self, token_id: int) -> str:
        """Return the text that `token_id` completes; "" within a character."""
        if self._steps:
            return self._steps.feed([self.tokenizer.token_text(token_id)])
        return self._decoder.decode(self.tokenizer.decode_bytes([token_id]))

    def flush(self) -> str:
        """Return the rest at the end, U+FFFD for an incomplete character, else ""; reset the decoder."""
        text = self._steps.flush() if self._steps else self._decoder.decode(b"", final=True)
        self._start()
        return text

    def _start(self) -> None:
        steps = self.tokenizer.form.decoder
        self._steps = None if steps is None else TextDecoder(steps)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
