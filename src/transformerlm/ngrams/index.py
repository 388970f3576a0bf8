"""The training tokens, sorted by what stands before each of them.

RUN/ngrams/
    index.safetensors   tokens, and their places in the order of what precedes them
    manifest.json       which tokenizer and token files they are of, the checksum of the other file
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from transformerlm.errors import CheckpointError
from transformerlm.kernels.ngrams_layout import LONGEST
from transformerlm.storage.checksummed_json import RecordFormat, dump, load
from transformerlm.storage.files import committed_directory, remove_directory
from transformerlm.storage.safetensors import iterate_tensors, tensor_chunks

Tokens = NDArray[np.uint32]

MAX_TOKENS = 2**24
"""Largest number of training tokens that are remembered: 134 MB on disk, and 0.8 GB while they are sorted."""
FILE, MANIFEST = "index.safetensors", "manifest.json"
_FORMAT = RecordFormat(
    version=1,
    checksum_since=1,
    members={"tokenizer": str, "tokens": str, "vocab_size": int, "sha256": str},
)


@dataclass(frozen=True)
class NgramIndex:
    """Tokens in which contexts can be found."""

    tokens: Tokens
    """All training tokens, `[num_tokens]`."""
    order: Tokens
    """Places of all tokens but the first, `[num_tokens - 1]`, sorted by the up to 32 tokens before them, the
    nearest first; equal ones by place."""
    starts: NDArray[np.int64]
    """`[vocab_size + 1]`: where the places behind each token begin in `order`."""
    vocab_size: int
    made_from: str = ""
    """Checksum of the token files."""
    tokenizer: str = ""
    """Fingerprint of the tokenizer."""

    @classmethod
    def build(
        cls,
        files: Sequence[NDArray[np.unsignedinteger[Any]]],
        vocab_size: int,
        *,
        made_from: str = "",
        tokenizer: str = "",
    ) -> Self:
        """Sort the tokens of all files, one after another: some 0.5 s for each million.

        Raises:
            ValueError: more than MAX_TOKENS, or ids that are not below `vocab_size`.
        """
        tokens = np.concatenate([np.zeros(0, np.uint32), *(file.astype(np.uint32) for file in files)])
        if len(tokens) > MAX_TOKENS:
            raise ValueError(f"expected at most {MAX_TOKENS:,} tokens, got {len(tokens):,}")
        return cls._of(tokens, _sorted_places(tokens), vocab_size, made_from, tokenizer)

    @classmethod
    def _of(cls, tokens: Tokens, order: Tokens, vocab_size: int, made_from: str, tokenizer: str) -> Self:
        if len(tokens) and int(tokens.max()) >= vocab_size:
            raise ValueError(f"expected ids below {vocab_size}, got {int(tokens.max())}")
        counts = np.bincount(tokens[:-1].astype(np.int64), minlength=vocab_size)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        return cls(tokens, order, starts, vocab_size, made_from, tokenizer)

    def save(self, folder: Path) -> None:
        """Write the folder, whole or not at all, in place of one that is there.

        Raises:
            OutputError: it cannot be written.
        """
        content = {"tokens": torch.from_numpy(self.tokens), "order": torch.from_numpy(self.order)}
        size, chunks = tensor_chunks(content, {"content": "memory of n-grams"})
        remove_directory(folder) if folder.exists() else None
        digest = hashlib.sha256()
        with committed_directory(folder, size) as new:
            with (new / FILE).open("wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                    digest.update(chunk)
            about = {"format_version": _FORMAT.version, "tokenizer": self.tokenizer, "tokens": self.made_from}
            about |= {"vocab_size": self.vocab_size, "sha256": digest.hexdigest()}
            (new / MANIFEST).write_bytes(dump(about))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read what `save` has written; None where there is no such folder.

        Raises:
            CheckpointError: it is damaged.
        """
        if not folder.is_dir():
            return None
        with _damaged(folder):
            about = load((folder / MANIFEST).read_bytes(), _FORMAT)
            with (folder / FILE).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != about["sha256"]:
                raise ValueError(f"{FILE} is not what was written (SHA-256 differs)")
            parts = dict(iterate_tensors(folder / FILE))
            tokens, order = (parts[name].numpy() for name in ("tokens", "order"))
            if len(order) != max(0, len(tokens) - 1) or (len(order) and int(order.max()) >= len(tokens)):
                raise ValueError("expected places of its tokens")
            return cls._of(tokens, order, about["vocab_size"], about["tokens"], about["tokenizer"])


@contextlib.contextmanager
def _damaged(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, ValueError, CheckpointError) as error:
        advice = "remove the folder to go on without the memory of n-grams"
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"{folder}: damaged: {what}; {advice}") from None


def _sorted_places(tokens: Tokens) -> Tokens:
    """Return `NgramIndex.order`, by sorting contexts of one token, then of two, four and so on.

    Source: Manber, Myers, "Suffix Arrays: A New Method for On-Line String Searches", 1993, for the text read
    backwards.
    """
    number = len(tokens)
    if number < 2:
        return np.zeros(0, np.uint32)
    # Of the text backwards, the tokens from index `number - place` on are those before a place.
    backwards = tokens[::-1].astype(np.int64) + 1
    ranks, length = backwards, 1
    while length < LONGEST:
        following = np.zeros(number, np.int64)  # 0: the text has ended
        following[: max(0, number - length)] = ranks[length:]
        ranks = _ranks(ranks * (1 + following.max()) + following)
        length *= 2
    places = number - np.arange(number, dtype=np.int64)
    own = ranks[1:] * number + places[1:]  # equal contexts by place
    return places[1:][np.argsort(own)].astype(np.uint32)


def _ranks(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rank of each key among the different ones, from 1."""
    order = np.argsort(keys)
    ordered = keys[order]
    ranks = np.empty(len(keys), np.int64)
    ranks[order] = np.cumsum(np.concatenate([[True], ordered[1:] != ordered[:-1]]), dtype=np.int64)
    return ranks
