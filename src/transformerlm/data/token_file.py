"""The token file: `NAME.memmap`, raw little-endian ids, and its sidecar `NAME.memmap.json`.

The sidecar is written last: a token file without one is incomplete. Opening takes the same time for any size,
because the ids are mapped, not read. It checks the file's length; `TokenFile.verify` reads and checks every
byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from transformerlm.data.sidecar import (
    DTYPES,
    FORMAT_VERSION,
    Sidecar,
    damaged_error,
    read_sidecar,
    sidecar_path,
)
from transformerlm.errors import DataError
from transformerlm.storage.files import committed_file
from transformerlm.tokenizer.vocabulary import id_dtype

BLOCK_BYTES = 64 * 2**20
"""Bytes per checksum: small enough to locate damage, and to resume from there."""


def dtype_name_for(vocab_size: int) -> str:
    """Return the narrowest type for ids below `vocab_size`: "uint16" or "uint32"."""
    return id_dtype(vocab_size).name


class TokenFile:
    """A token file, open for reading; `TokenFile.open` creates one.

    It may be pickled and forked: only the path is sent, and each process maps the file itself.
    """

    def __init__(self, path: Path, sidecar: Sidecar, tokens: NDArray[np.unsignedinteger[Any]]) -> None:
        self.path, self.sidecar = path, sidecar
        self.tokens = tokens
        """All ids, `[num_tokens]`, mapped into memory and not writable."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open `NAME.memmap`; takes the same time for any size.

        If the file is replaced meanwhile, the result is either the old file or the new one.

        Raises:
            DataError: the file or its sidecar is missing, or they do not match.
        """
        path = Path(path)
        content = read_sidecar(sidecar_path(path))
        sidecar = Sidecar.parse(sidecar_path(path), content)
        try:
            file = path.open("rb")
        except (FileNotFoundError, IsADirectoryError):
            raise damaged_error(path, "there is only its sidecar") from None
        with file:
            # A sidecar is removed before its ids are replaced: if it is still there, it belongs to these ids.
            if read_sidecar(sidecar_path(path)) != content:
                return cls.open(path)
            return cls(path, sidecar, _map(path, file, sidecar))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).open, (self.path,)

    @property
    def num_tokens(self) -> int:
        """Number of ids, separators included."""
        return self.sidecar.num_tokens

    @property
    def vocab_size(self) -> int:
        """The tokenizer's vocabulary size; every id is below it."""
        return self.sidecar.vocab_size

    @property
    def num_documents(self) -> int:
        """Number of documents in the text."""
        return self.sidecar.num_documents

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the text, separators not counted: the unit of bits per byte."""
        return self.sidecar.num_bytes

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the tokenizer."""
        return self.sidecar.fingerprint

    @property
    def made_from(self) -> dict[str, Any]:
        """Settings and files that the tokens were made from."""
        return self.sidecar.made_from

    @property
    def sha256(self) -> str:
        """One checksum of all ids: SHA-256 of the blocks' checksums, without reading the file."""
        return hashlib.sha256(json.dumps(self.sidecar.block_sha256).encode()).hexdigest()

    def verify(self, progress: Callable[[int], object] = lambda num_bytes: None) -> None:
        """Read the whole file and compare it with its checksums.

        Args:
            progress: called with the number of bytes after each block.

        Raises:
            DataError: the file is damaged; names the ranges of bytes whose checksums differ.
        """
        wrong, position = [], 0
        with self.path.open("rb") as file:
            for expected in self.sidecar.block_sha256:
                block = file.read(self.sidecar.block_bytes)
                if hashlib.sha256(block).hexdigest() != expected:
                    wrong.append((position, position + len(block)))
                position += len(block)
                progress(len(block))
        size = self.path.stat().st_size
        if position != size:
            raise damaged_error(self.path, f"expected checksums of {size} bytes, got those of {position}")
        if wrong:
            where = " and ".join(f"{start} to {stop}" for start, stop in _joined(wrong))
            raise damaged_error(self.path, f"bytes {where} are not those that were written (SHA-256 differs)")


def _map(path: Path, file: BinaryIO, sidecar: Sidecar) -> NDArray[np.unsignedinteger[Any]]:
    dtype = DTYPES[sidecar.dtype]
    expected, found = sidecar.num_tokens * dtype.itemsize, os.fstat(file.fileno()).st_size
    if expected != found:
        what = f"expected {sidecar.num_tokens} tokens of {sidecar.dtype} = {expected} bytes"
        raise damaged_error(path, f"{what}, got {found} bytes")
    if not found:  # an empty file cannot be mapped
        return np.empty(0, dtype=dtype)
    return np.memmap(file, dtype=dtype, mode="r")


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return sorted ranges with adjacent ones joined."""
    joined: list[tuple[int, int]] = []
    for start, stop in ranges:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, stop))
    return joined


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """State of a TokenWriter, which suffices to continue writing the file."""

    num_tokens: int = 0
    largest_id: int = -1
    num_documents: int = 0
    num_bytes: int = 0
    block_sha256: list[str] = field(default_factory=list)
    """Checksums as in a sidecar, including one of a last block that is not full yet."""


class TokenWriter:
    """Writer of a token file, in constant memory; `TokenWriter.create` creates one."""

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

        They appear when the block ends, and replace older ones. If it ends with an error, the older ones are
        kept and nothing else remains.

        Args:
            path: of the token file.
            vocab_size: the tokenizer's; ids have to be below it.
            fingerprint: the tokenizer's.
            made_from: settings and files that the tokens are made from.
            sources: name and num_bytes of each file.

        Raises:
            OutputError: the disk is full.
        """
        path = Path(path)
        with committed_file(path) as file:
            writer = cls(path, file, vocab_size)
            yield writer
            # A full disk is noticed here, while the old file can still be kept. Then the old sidecar is
            # removed before the new ids appear: no reader may combine the two.
            writer.sync()
            sidecar_path(path).unlink(missing_ok=True)
        writer.sidecar(fingerprint, made_from or {}, sources).write(sidecar_path(path))

    @classmethod
    def resume(cls, path: Path, file: BinaryIO, vocab_size: int, written: Written) -> Self:
        """Continue in a file that is open for reading and writing; bytes behind `written` are cut off.

        Raises:
            DataError: the file is shorter than `written`, or its last, partial block differs.
        """
        writer = cls(path, file, vocab_size)
        writer.num_tokens, writer.largest_id = written.num_tokens, written.largest_id
        writer.num_documents, writer.num_bytes = written.num_documents, written.num_bytes
        size = written.num_tokens * writer._dtype.itemsize
        num_full = size // BLOCK_BYTES
        writer._sums.done = written.block_sha256[:num_full]
        file.seek(num_full * BLOCK_BYTES)
        writer._sums.update(file.read(size % BLOCK_BYTES))
        if file.tell() != size or writer._sums.so_far() != written.block_sha256:
            raise damaged_error(path, f"its first {size} bytes are not those that were written")
        file.truncate()
        return writer

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

    def sync(self) -> None:
        """Flush everything written to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    @property
    def written(self) -> Written:
        """State of the writer: counts and checksums so far."""
        return Written(
            num_tokens=self.num_tokens,
            largest_id=self.largest_id,
            num_documents=self.num_documents,
            num_bytes=self.num_bytes,
            block_sha256=self._sums.so_far(),
        )

    def sidecar(
        self, fingerprint: str, made_from: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]
    ) -> Sidecar:
        """Return the sidecar of the ids written so far."""
        return Sidecar(
            format_version=FORMAT_VERSION,
            dtype=dtype_name_for(self.vocab_size),
            vocab_size=self.vocab_size,
            fingerprint=fingerprint,
            block_bytes=BLOCK_BYTES,
            **asdict(self.written),
            made_from=dict(made_from),
            sources=[dict(source) for source in sources],
        )


class _BlockSums:
    """Running SHA-256 of every BLOCK_BYTES of a stream."""

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
                self.done.append(self.block.hexdigest())
                self.block, self.filled = hashlib.sha256(), 0

    def so_far(self) -> list[str]:
        return [*self.done, *([self.block.hexdigest()] if self.filled else [])]
