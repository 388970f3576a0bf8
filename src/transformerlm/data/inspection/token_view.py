"""Token files with their tokenizer: documents, bytes and texts of tokens."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transformerlm.data.token_file import TokenFile
from transformerlm.errors import DataError, Key
from transformerlm.tokenizer import Tokenizer
from transformerlm.tokenizer.formats.folder import holds_tokenizer

PART_TOKENS = 2**22
"""Tokens that are read at a time."""
DEFAULT_SEPARATOR = "<|endoftext|>"
_SEPARATOR = "[data].document_separator"


@dataclass(frozen=True)
class TokenView:
    """A token file and the tokenizer that made it."""

    file: TokenFile
    tokenizer: Tokenizer

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.file.path.name

    @functools.cached_property
    def end_id(self) -> int | None:
        """Id of the token that ends each document; None if nothing marks the ends."""
        separator = self.file.made_from.get(_SEPARATOR, DEFAULT_SEPARATOR)
        return self.tokenizer.special_token_ids.get(separator)

    @functools.cached_property
    def token_bytes(self) -> NDArray[np.int64]:
        """Bytes of text of each id; 0 for the token between documents."""
        sizes = np.zeros(max(self.file.vocab_size, self.tokenizer.vocab_size), np.int64)
        for token_id, token in self.tokenizer.vocab.items():
            sizes[token_id] = len(token)
        if self.end_id is not None:
            sizes[self.end_id] = 0
        return sizes

    @functools.cached_property
    def ends(self) -> NDArray[np.int64]:
        """Positions of the tokens that end documents."""
        if self.end_id is None:
            return np.empty(0, np.int64)
        found = [first + np.flatnonzero(part == self.end_id) for first, part in self.parts()]
        return np.concatenate([np.empty(0, np.int64), *found])

    def parts(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the tokens in parts, each with its position."""
        for first in range(0, self.file.num_tokens, PART_TOKENS):
            yield first, np.asarray(self.file.tokens[first : first + PART_TOKENS])

    def document_at(self, position: int) -> tuple[int, int]:
        """Return the number, from 0, of the document at a position, and the position where it begins."""
        number = int(np.searchsorted(self.ends, position))
        return number, int(self.ends[number - 1]) + 1 if number else 0

    def num_bytes(self, start: int, stop: int) -> int:
        """Return the bytes of text of a range of tokens."""
        size = range(start, stop, PART_TOKENS)
        return sum(
            int(self.token_bytes[self.file.tokens[at : min(at + PART_TOKENS, stop)]].sum()) for at in size
        )

    def text(self, token_id: int) -> str:
        """Return the text of a token; bytes that are not UTF-8 as `\\xff`."""
        return self.tokenizer.vocab.get(token_id, b"").decode(errors="backslashreplace")

    def texts(self, start: int, stop: int) -> list[tuple[int, str]]:
        """Return id and text of each of a range of tokens."""
        ids = self.file.tokens[max(0, start) : max(0, stop)].tolist()
        return [(token_id, self.text(token_id)) for token_id in ids]


def find_tokenizer(path: Path, configured: Path, fingerprint: str) -> Tokenizer:
    """Load the tokenizer of token files: in `tokenizer` beside them, or the configured one.

    Args:
        path: folder of the token files.
        configured: [tokenizer].tokenizer_dir.
        fingerprint: the tokenizer's, as the token files have it.

    Raises:
        DataError: neither is the tokenizer with which the files were made.
    """
    tried = [folder for folder in dict.fromkeys((configured, path / "tokenizer")) if holds_tokenizer(folder)]
    for folder in tried:
        tokenizer = Tokenizer.from_dir(folder)
        if tokenizer.fingerprint == fingerprint:
            return tokenizer
    found = f"others in {', '.join(map(str, tried))}" if tried else f"none in {configured}"
    what = f"expected the tokenizer with which the token files in {path} were made, got {found}"
    raise DataError(
        f"{what}; --tokenizer.tokenizer_dir=DIR names its folder", key=Key("tokenizer", "tokenizer_dir")
    )


def open_view(path: Path, configured: Path) -> TokenView:
    """Open a token file with its tokenizer; see `find_tokenizer`.

    Raises:
        DataError: the file is missing or damaged, or its tokenizer is not found.
    """
    file = TokenFile.open(path)
    return TokenView(file, find_tokenizer(path.parent, configured, file.fingerprint))
