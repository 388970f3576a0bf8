"""Safetensors files: tensors by name, read and written without the safetensors package.

The package reads and writes the same files, and the tests hold this module against it. Advantages of this
module: a file is hashed while it is written, a full disk is an OSError, and tensors are read into ordinary
memory. The package maps the file instead, and truncating a mapped file kills the process that reads its
tensors. `safetensors_header` makes and checks the header.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from transformerlm.errors import CheckpointError
from transformerlm.storage.safetensors_header import (
    MAX_HEADER_BYTES,
    Entry,
    check_length,
    make_header,
    parse_header,
)
from transformerlm.storage.untrusted import LFS_ADVICE, LFS_POINTER, open_regular, printable

_CHUNK_BYTES = 2**20
Convert = Callable[[Entry, Tensor], Any]
"""Function from a tensor's entry in the header and what was read of it to what is kept of it."""
Rows = Callable[[Entry], slice]
"""Function from a tensor's entry in the header to the rows (of its first dimension) that are read."""


@dataclass(frozen=True)
class DeferredTensor:
    """A tensor that is made when it is written: of many, only one at a time is in memory."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]
    """Returns the tensor, of this shape and dtype."""

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * self.dtype.itemsize


def tensor_chunks(
    tensors: Mapping[str, Tensor | DeferredTensor], metadata: dict[str, str]
) -> tuple[int, Iterator[bytes | memoryview]]:
    """Return the size of a file in bytes, and its content part by part.

    Of tensors on another device, one at a time is copied to the CPU; of deferred ones, one at a time is made.

    Args:
        tensors: name -> tensor of any shape.
        metadata: any text by any name.

    Raises:
        TypeError: a tensor's dtype is none of the format's.
        CheckpointError: more tensors than a header can hold.
    """
    # Widest elements first: every tensor is then aligned in the file.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].itemsize)
    try:
        header = make_header(ordered, metadata)
    except ValueError as error:
        raise CheckpointError(f"cannot be saved: {error}") from None
    beginning = len(header).to_bytes(8, "little") + header
    size = len(beginning) + sum(tensor.nbytes for _, tensor in ordered)
    return size, itertools.chain([beginning], (_bytes_of(tensor) for _, tensor in ordered))


def read_entries(path: Path) -> list[Entry]:
    """Return the names, dtypes and shapes of a file's tensors, from its header alone.

    Raises:
        CheckpointError: not a whole safetensors file.
    """
    with open_regular(path, follow_link=True) as file:
        return _checked_header(file, str(path))[0]


def iterate_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of a file one by one, on the CPU.

    Raises:
        CheckpointError: not a whole safetensors file.
    """
    with open_regular(path, follow_link=True) as file:
        for entry in _checked_header(file, str(path))[0]:
            with invalid_as_checkpoint_error(str(path)):
                tensor = _read_tensor(file, entry)
            yield entry.name, tensor


def read_tensor(path: Path, name: str) -> Tensor:
    """Read one tensor of a file, on the CPU.

    Raises:
        CheckpointError: not a whole safetensors file, or without such a tensor.
    """
    with open_regular(path, follow_link=True) as file:
        entries, _ = _checked_header(file, str(path))
        entry = next((entry for entry in entries if entry.name == name), None)
        if entry is None:
            raise CheckpointError(f"{path}: expected a tensor {name}, found none")
        file.seek(entry.begin, os.SEEK_CUR)
        with invalid_as_checkpoint_error(str(path)):
            return _read_tensor(file, entry)


def read_tensors(
    file: BinaryIO, name: str, convert: Convert | None = None, rows: Rows | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the rest of an open file, which can seek, as tensors by name, on the CPU, and metadata.

    Args:
        name: name of the file in error messages.
        convert: called with each tensor as soon as it has been read, of which what it returns is kept.
        rows: chooses the rows that are read of each tensor; those of scalars are not asked for. None: all.

    Raises:
        CheckpointError: not a whole safetensors file, or something behind it.
    """
    entries, metadata = _checked_header(file, name)
    with invalid_as_checkpoint_error(name):
        tensors = ((entry, _read_rows(file, entry, rows)) for entry in entries)
        found = {entry.name: convert(entry, tensor) if convert else tensor for entry, tensor in tensors}
        return found, metadata


@contextlib.contextmanager
def invalid_as_checkpoint_error(name: str) -> Iterator[None]:
    """Context manager that turns a parser's errors into a CheckpointError about the file `name`."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name}: not a whole checkpoint file: {printable(error)}") from None


def _bytes_of(tensor: Tensor | DeferredTensor) -> memoryview:
    if isinstance(tensor, DeferredTensor):
        deferred, tensor = tensor, tensor.make()
        assert (tuple(tensor.shape), tensor.dtype) == (deferred.shape, deferred.dtype)
    plain = tensor.cpu().resolve_conj().resolve_neg().contiguous()
    return _memory_of(plain.reshape(-1).view(torch.uint8))


def _memory_of(numbers: Tensor) -> memoryview:
    return memoryview(numbers.numpy())  # type: ignore[arg-type]  # an array is a buffer, which mypy cannot see


def _checked_header(file: BinaryIO, name: str) -> tuple[list[Entry], dict[str, str]]:
    """Read the header at the current position of an open file; leaves the position behind the header."""
    start = file.tell()
    size = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    with invalid_as_checkpoint_error(name):
        return _read_header(file, size)


def _read_header(file: BinaryIO, size: int) -> tuple[list[Entry], dict[str, str]]:
    if size < 8:
        raise ValueError(f"expected at least 8 bytes, got {size}")
    beginning = file.read(min(size, len(LFS_POINTER)))
    if beginning == LFS_POINTER:
        raise ValueError(LFS_ADVICE)
    file.seek(8 - len(beginning), os.SEEK_CUR)
    length = int.from_bytes(beginning[:8], "little")
    check_length(length, min(size - 8, MAX_HEADER_BYTES))
    return parse_header(file.read(length), size - 8 - length)


def _read_rows(file: BinaryIO, entry: Entry, rows: Rows | None) -> Tensor:
    """Read the wanted rows of a tensor, which follow one another in the file, and pass over the others."""
    if rows is None or not entry.shape or entry.begin == entry.end:
        return _read_tensor(file, entry)
    first, last, _ = rows(entry).indices(entry.shape[0])
    row_bytes = (entry.end - entry.begin) // entry.shape[0]
    begin, end = entry.begin + first * row_bytes, entry.begin + last * row_bytes
    file.seek(begin - entry.begin, os.SEEK_CUR)
    tensor = _read_tensor(file, Entry(begin, end, entry.name, entry.dtype, [last - first, *entry.shape[1:]]))
    file.seek(entry.end - end, os.SEEK_CUR)
    return tensor


def _read_tensor(file: BinaryIO, entry: Entry) -> Tensor:
    buffer = torch.empty(entry.end - entry.begin, dtype=torch.uint8, device="cpu")
    view, filled = _memory_of(buffer), 0
    while filled < len(view):
        chunk = file.read(min(_CHUNK_BYTES, len(view) - filled))
        if not chunk:
            raise ValueError(f"{entry.name}: ends after {filled} of {len(view)} bytes")
        view[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    if entry.dtype == torch.bool and bool((buffer > 1).any()):
        raise ValueError(f"{entry.name}: expected bytes of 0 and 1 for BOOL")
    return buffer.view(entry.dtype).reshape(entry.shape)
