"""Headers of safetensors files: which tensors there are and where their bytes are.

A file may come from anybody: everything in it is checked before it is used, and refusing it takes at most
some tens of MB of memory.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

METADATA = "__metadata__"
"""The only name in a header that is not a tensor's."""
MAX_HEADER_BYTES = 4 * 2**20
"""Enough for some 25,000 tensors. Parsed JSON takes many times the memory of its text."""
_MAX_BRACKETS = 2**17
"""Largest number of objects and lists in a header: each takes much memory for few bytes."""
_MAX_DIMS = 64
_MAX_SIZE = 2**63 - 1


class Entry(NamedTuple):
    """A tensor in a header. Its bytes are those from `begin` to `end`, counted from the header's end."""

    begin: int
    end: int
    name: str
    dtype: torch.dtype
    shape: list[int]


class Described(Protocol):
    """Entry of a header for a tensor; a `Tensor` has all of it."""

    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102
    @property
    def shape(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def nbytes(self) -> int: ...  # noqa: D102


def make_header(tensors: Sequence[tuple[str, Described]], metadata: dict[str, str]) -> bytes:
    """Return the header of a file with these tensors one after the other, padded to a multiple of 8 bytes.

    Raises:
        TypeError: a tensor's dtype is none of the format's.
        ValueError: more tensors than `parse_header` reads.
    """
    header: dict[str, Any] = {METADATA: metadata}
    end = 0
    for name, tensor in tensors:
        begin, end = end, end + tensor.nbytes
        if tensor.dtype not in _NAMES:
            raise TypeError(f"{name}: cannot save a tensor of {tensor.dtype}")
        shape, offsets = list(tensor.shape), [begin, end]
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": shape, "data_offsets": offsets}
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    check_length(len(content), MAX_HEADER_BYTES)
    _check_brackets(content)
    return content


def check_length(length: int, limit: int) -> None:
    """Raise ValueError if a header has more than `limit` bytes."""
    if length > limit:
        raise ValueError(f"expected a header of at most {limit:,} bytes, got {length:,}")


def parse_header(content: bytes, num_bytes: int) -> tuple[list[Entry], dict[str, str]]:
    """Return the entries of a header in the order of their bytes, and the metadata.

    Args:
        content: the header.
        num_bytes: the size of all that follows it in the file.

    Raises:
        ValueError: anything but whole tensors one after the other that fill `num_bytes`.
        RecursionError: it nests too deeply.
    """
    _check_brackets(content)
    header = parse_json(content.decode())
    if not isinstance(header, dict) or not content.startswith(b"{"):
        raise ValueError("expected a JSON object as its header")
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("expected a JSON object of texts as its metadata")
    return _in_order([_entry(name, value) for name, value in header.items()], num_bytes), metadata


def parse_json(text: str) -> Any:
    """Parse JSON in which no object is empty or has a key twice.

    Raises:
        ValueError: anything else.
        RecursionError: it nests too deeply.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs) or not values:
        raise ValueError("an empty object, or a key that is there twice")
    return values


def _check_brackets(content: bytes) -> None:
    brackets = content.count(b"{") + content.count(b"[")
    if brackets > _MAX_BRACKETS:
        raise ValueError(
            f"expected at most {_MAX_BRACKETS:,} objects and lists in its header, got {brackets:,}"
        )


def _entry(name: str, value: Any) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name}: unknown dtype {dtype}")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMS or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{name}: expected whole numbers of at least 0 as shape and data_offsets")
    begin, end = offsets
    # A tensor without elements can still have sizes whose product overflows.
    elements = math.prod(max(1, size) for size in shape)
    num_bytes = (elements if all(shape) else 0) * DTYPES[dtype].itemsize
    if elements * DTYPES[dtype].itemsize > _MAX_SIZE or end - begin != num_bytes:
        raise ValueError(f"{name}: expected {num_bytes} bytes for shape {shape}, got {end - begin}")
    return Entry(begin, end, name, DTYPES[dtype], shape)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(size) is int and 0 <= size <= _MAX_SIZE for size in values)


def _in_order(entries: list[Entry], num_bytes: int) -> list[Entry]:
    """Sort entries by their bytes, which have to follow one another from 0 to `num_bytes`."""
    entries = sorted(entries, key=lambda entry: (entry.begin, entry.end))
    end = 0
    for entry in entries:
        if entry.begin != end:
            raise ValueError(f"{entry.name}: expected its bytes to begin at {end}, got {entry.begin}")
        end = entry.end
    if end != num_bytes:
        raise ValueError(f"expected {end:,} bytes of tensors, got {num_bytes:,}")
    return entries
