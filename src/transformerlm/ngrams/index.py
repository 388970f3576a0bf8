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

from transformerlm.errors import CheckpointError, OutputError
from transformerlm.kernels.ngrams_layout import LONGEST
from transformerlm.storage.checksummed_json import RecordFormat, dump, load
from transformerlm.storage.files import committed_directory, remove_directory, temporary_beside
from transformerlm.storage.safetensors import iterate_tensors, tensor_chunks
from transformerlm.storage.untrusted import open_regular, printable

Tokens = NDArray[np.uint32]

MAX_TOKENS = 2**24
"""Largest number of training tokens that are remembered: 134 MB on disk, and 0.8 GB while they are sorted."""
BYTES_PER_TOKEN = 8
"""Size of an index on disk, beside some hundred bytes."""
MAX_VOCABULARY = 2**24
"""Largest vocabulary: tables are made for it."""
FILE, MANIFEST = "index.safetensors", "manifest.json"
_MAX_MANIFEST_BYTES = 2**16
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
        """Sort the tokens of all files, one after another: some 0.7 s for each million.

        Raises:
            ValueError: more than MAX_TOKENS, or ids that are not below `vocab_size`.
        """
        number = sum(map(len, files))
        if number > MAX_TOKENS:
            raise ValueError(f"expected at most {MAX_TOKENS:,} tokens, got {number:,}")
        tokens = np.concatenate([np.zeros(0, np.uint32), *(file.astype(np.uint32) for file in files)])
        return cls._of(tokens, _sorted_places(tokens), vocab_size, made_from, tokenizer)

    @classmethod
    def _of(cls, tokens: Tokens, order: Tokens, vocab_size: int, made_from: str, tokenizer: str) -> Self:
        if not 1 <= vocab_size <= MAX_VOCABULARY:
            raise ValueError(f"expected a vocabulary of 1 to {MAX_VOCABULARY:,}, got {vocab_size}")
        if len(tokens) and int(tokens.max()) >= vocab_size:
            raise ValueError(f"expected ids below {vocab_size}, got {int(tokens.max())}")
        counts = np.bincount(tokens[:-1].astype(np.int64), minlength=vocab_size)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        return cls(tokens, order, starts, vocab_size, made_from, tokenizer)

    def is_of(self, made_from: str, tokenizer: str, vocab_size: int) -> bool:
        """Return True if it was made from these tokens, for a model of these rows."""
        return (self.made_from, self.tokenizer, self.vocab_size) == (made_from, tokenizer, vocab_size)

    def save(self, folder: Path) -> None:
        """Write the folder, whole or not at all, in place of one that is there.

        Raises:
            OutputError: the disk is full, and the one that was there stays; or there is something else.
            OSError: it cannot be written for another reason.
        """
        if folder.exists() and not (folder / MANIFEST).is_file():
            raise OutputError(f"{folder}: expected nothing there, or a memory of n-grams to replace")
        content = {"tokens": _as_tensor(self.tokens), "order": _as_tensor(self.order)}
        size, chunks = tensor_chunks(content, {"format": "pt"})  # a reader refuses empty metadata
        digest = hashlib.sha256()
        with _replaced(folder), committed_directory(folder, size) as new:
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
            with open_regular(folder / MANIFEST, follow_link=True) as file:
                about = load(file.read(_MAX_MANIFEST_BYTES), _FORMAT)
            if _sha256(folder / FILE) != about["sha256"]:
                raise ValueError(f"{FILE} is not what was written (SHA-256 differs)")
            tokens, order = _read_tensors(folder / FILE)
            return cls._of(tokens, order, about["vocab_size"], about["tokens"], about["tokenizer"])


def _as_tensor(numbers: Tokens) -> torch.Tensor:
    # PyTorch has no view of the bytes of an empty tensor that is made from an array.
    return torch.from_numpy(numbers) if len(numbers) else torch.empty(0, dtype=torch.uint32, device="cpu")


def _sha256(path: Path) -> str:
    with open_regular(path, follow_link=True) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _read_tensors(path: Path) -> tuple[Tokens, Tokens]:
    """Return tokens and order of a file.

    Raises:
        ValueError: a file of something else: the kernels would read outside of the tokens.
    """
    parts = dict(iterate_tensors(path))
    kinds = {name: (tensor.dtype, tensor.ndim) for name, tensor in parts.items()}
    if kinds != dict.fromkeys(("tokens", "order"), (torch.uint32, 1)):
        raise ValueError("expected the tensors tokens and order, of one dimension and unsigned")
    tokens, order = parts["tokens"].numpy(), parts["order"].numpy()
    if len(order) != max(0, len(tokens) - 1) or (len(order) and int(order.max()) >= len(tokens)):
        raise ValueError("expected the places of all tokens but the first")
    return tokens, order


@contextlib.contextmanager
def _replaced(folder: Path) -> Iterator[None]:
    """Context manager for writing `folder`: one that is there is put aside, and back if that fails."""
    if folder.is_symlink():
        folder.unlink()
    if not folder.exists():
        yield
        return
    older = temporary_beside(folder)
    folder.rename(older)
    try:
        yield
    except BaseException:
        older.rename(folder)
        raise
    remove_directory(older)


def remove(folder: Path) -> bool:
    """Remove a memory's folder, or the link to one; return False where there is none."""
    if not (folder / MANIFEST).is_file():
        return False
    if folder.is_symlink():
        folder.unlink()
    else:
        remove_directory(folder)
    return True


@contextlib.contextmanager
def _damaged(folder: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        advice = "remove the folder to go on without the memory of n-grams"
        what = _system_error(error) if isinstance(error, OSError) else printable(error)
        raise CheckpointError(f"{folder}: damaged: {what}; {advice}") from None
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read: {_system_error(error)}") from None


def _system_error(error: OSError) -> str:
    return f"{Path(error.filename or FILE).name}: {error.strerror}"


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
