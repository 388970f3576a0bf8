"""The token file: `NAME.memmap`, raw little-endian ids, and `NAME.memmap.json`, what is known of them.

The sidecar is written last and vouches for the ids: a token file without one is not whole. Opening
costs the same for any size, because the ids are mapped, not read. What ids mean is the tokenizer's
business, where they come from the builder's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from transformerlm.data.sidecar import DTYPES, FORMAT_VERSION, Sidecar, damaged, sidecar_path
from transformerlm.errors import DataError
from transformerlm.files import committed_file

BLOCK_BYTES = 64 * 2**20
"""Bytes under one checksum: small enough to find where a file is damaged, and to go on from there."""


def dtype_name_for(vocab_size: int) -> str:
    """The narrowest type that holds every id below `vocab_size`: "uint16" or "uint32"."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


class TokenFile:
    """A token file, open for reading. Make one with `TokenFile.open`.

    It may be pickled and forked: what travels is the path, and each process maps the file itself.
    """

    def __init__(self, path: Path, sidecar: Sidecar) -> None:
        self.path = path
        self.sidecar = sidecar

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open `NAME.memmap`; takes the same time for any size.

        Raises:
            DataError: a file or its sidecar is missing, or they do not fit each other.
        """
        path = Path(path)
        sidecar = Sidecar.read(sidecar_path(path))
        if not path.is_file():
            raise damaged(path, "there is only its sidecar")
        expected, found = sidecar.num_tokens * DTYPES[sidecar.dtype].itemsize, path.stat().st_size
        if expected != found:
            what = f"expected {sidecar.num_tokens} tokens of {sidecar.dtype} = {expected} bytes"
            raise damaged(path, f"{what}, got {found} bytes")
        return cls(path, sidecar)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).open, (self.path,)

    @cached_property
    def tokens(self) -> NDArray[np.unsignedinteger[Any]]:
        """All ids, `[num_tokens]`, mapped into memory and not writable."""
        dtype = DTYPES[self.sidecar.dtype]
        if not self.num_tokens:  # nothing cannot be mapped
            return np.empty(0, dtype)
        return np.memmap(self.path, dtype, mode="r")

    @property
    def num_tokens(self) -> int:
        """How many ids there are, separators included."""
        return self.sidecar.num_tokens

    @property
    def vocab_size(self) -> int:
        """Of the tokenizer; every id is below it."""
        return self.sidecar.vocab_size

    @property
    def num_documents(self) -> int:
        """How many documents the text was."""
        return self.sidecar.num_documents

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the text, separators not counted: what bits per byte are counted in."""
        return self.sidecar.num_bytes

    @property
    def fingerprint(self) -> str:
        """The tokenizer's."""
        return self.sidecar.fingerprint

    @property
    def made_from(self) -> dict[str, Any]:
        """The settings and the files that the tokens were made from."""
        return self.sidecar.made_from

    @property
    def sha256(self) -> str:
        """One checksum for all ids: SHA-256 of the blocks' checksums. Reads nothing."""
        return hashlib.sha256(json.dumps(self.sidecar.block_sha256).encode()).hexdigest()

    def verify(self) -> None:
        """Read the whole file and compare it with its checksums.

        Raises:
            DataError: naming the first bytes that are not what was written.
        """
        size = self.sidecar.block_bytes
        with self.path.open("rb") as file:
            found = list(_block_sums(file, size))
        expected = self.sidecar.block_sha256
        if len(found) != len(expected):
            raise damaged(self.path, f"expected {len(expected)} blocks of bytes, got {len(found)}")
        for index, (sum_expected, sum_found) in enumerate(zip(expected, found, strict=True)):
            if sum_expected != sum_found:
                where = f"bytes {index * size} to {(index + 1) * size}"
                raise damaged(self.path, f"{where} are not those that were written (SHA-256 differs)")


def _block_sums(file: BinaryIO, size: int) -> Iterator[str]:
    while block := file.read(size):
        yield hashlib.sha256(block).hexdigest()


class TokenWriter:
    """Takes ids as they come, in constant memory. `TokenWriter.create` makes one."""

    def __init__(self, path: Path, file: BinaryIO, vocab_size: int) -> None:
        self.path, self.vocab_size = path, vocab_size
        self.num_tokens = self.num_documents = self.num_bytes = 0
        self.largest_id = -1
        self._file, self._sums = file, _BlockSums()
        self._dtype = DTYPES[dtype_name_for(vocab_size)]

    @classmethod
    @contextlib.contextmanager
    def create(
        cls,
        path: str | os.PathLike[str],
        vocab_size: int,
        fingerprint: str,
        made_from: Mapping[str, Any] | None = None,
        sources: Sequence[Mapping[str, Any]] = (),
    ) -> Iterator[Self]:
        """Write `NAME.memmap` and its sidecar in a `with` block.

        They appear when the block ends, and replace older ones. Where it ends with an error, the older
        ones stay and nothing else is left.
        """
        path = Path(path)
        with committed_file(path) as file:
            writer = cls(path, file, vocab_size)
            yield writer
            # A full disk shows here, while the old file can still be kept. After that, and until the new
            # sidecar is there, no reader may take the new ids with the old sidecar for whole.
            file.flush()
            os.fsync(file.fileno())
            sidecar_path(path).unlink(missing_ok=True)
        sidecar = writer._sidecar(fingerprint, dict(made_from or {}), [dict(source) for source in sources])
        sidecar.write(sidecar_path(path))

    def write(self, ids: NDArray[Any], *, num_documents: int = 0, num_bytes: int = 0) -> None:
        """Append ids, `[num_ids]`; count the documents that end with them and the bytes of their text.

        Raises:
            DataError: an id that is negative or not below `vocab_size`.
        """
        assert ids.ndim == 1
        assert np.issubdtype(ids.dtype, np.integer)
        least, largest = (int(ids.min()), int(ids.max())) if ids.size else (0, -1)
        if least < 0 or largest >= self.vocab_size:
            what = f"expected ids from 0 to {self.vocab_size - 1} (below vocab_size)"
            raise DataError(f"{self.path}: {what}, got {least if least < 0 else largest}")
        content = ids.astype(self._dtype).tobytes()
        self._file.write(content)
        self._sums.update(content)
        self.largest_id = max(self.largest_id, largest)
        self.num_tokens += ids.size
        self.num_documents += num_documents
        self.num_bytes += num_bytes

    def _sidecar(self, fingerprint: str, made_from: dict[str, Any], sources: list[dict[str, Any]]) -> Sidecar:
        return Sidecar(
            format_version=FORMAT_VERSION,
            dtype=dtype_name_for(self.vocab_size),
            num_tokens=self.num_tokens,
            vocab_size=self.vocab_size,
            largest_id=self.largest_id,
            num_documents=self.num_documents,
            num_bytes=self.num_bytes,
            fingerprint=fingerprint,
            block_bytes=BLOCK_BYTES,
            block_sha256=self._sums.finish(),
            made_from=made_from,
            sources=sources,
        )


class _BlockSums:
    """SHA-256 of every BLOCK_BYTES of a stream."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.block, self.filled = hashlib.sha256(), 0

    def update(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            part = rest[: BLOCK_BYTES - self.filled]
            self.block.update(part)
            self.filled += len(part)
            rest = rest[len(part) :]
            if self.filled == BLOCK_BYTES:
                self._close()

    def finish(self) -> list[str]:
        if self.filled:
            self._close()
        return self.done

    def _close(self) -> None:
        self.done.append(self.block.hexdigest())
        self.block, self.filled = hashlib.sha256(), 0
