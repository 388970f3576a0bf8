"""A tree of dicts, lists, numbers, strings and tensors as one safetensors file, and back. No pickle.

Tensors are stored under their path in the tree; the shape of the tree is JSON in the file's metadata, so that
any optimizer's nested state survives with its integer keys and tuples. Files of tensors by name and nothing
else, as other programs have them, are read and written here too.

Written and read here, not by the safetensors package (which reads and writes the same files, and judges
these in the tests): what is written can be hashed on its way to the disk, a full disk stays an OSError, and
what is read lies in memory of its own, once. The package maps a file instead, and a mapped file that somebody
makes shorter kills whoever looks at its tensors. Where the bytes lie is told and checked in tensorheader.py.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from transformerlm.errors import CheckpointError
from transformerlm.storage.safetensors_header import (
    MAX_HEADER_BYTES,
    METADATA,
    Entry,
    check_length,
    make_header,
    parse_header,
    parse_json,
)

_CHUNK_BYTES = 2**20


def load_tree(path: str | os.PathLike[str], *, follow_link: bool = True) -> Any:
    """The tree in the file `path`, tensors on the CPU; CheckpointError where it is not one."""
    with open_regular(Path(path), follow_link=follow_link) as file:
        return read_tree(file, str(path))


def open_regular(path: Path, *, follow_link: bool) -> BinaryIO:
    """Open a file for reading, if it is an ordinary one: whoever opens a FIFO waits, some devices never end.

    Raises:
        CheckpointError: for a folder, a FIFO, a socket or a device; for a link, unless it may be followed.
    """
    flags = ["O_NONBLOCK", "O_BINARY", "O_CLOEXEC"] + ([] if follow_link else ["O_NOFOLLOW"])
    # Asked before it is opened, which some devices take as an order, and after: it may be another one by now.
    _check_regular(path, path.stat(follow_symlinks=follow_link))
    descriptor = os.open(path, sum((getattr(os, flag, 0) for flag in flags), os.O_RDONLY))
    file = os.fdopen(descriptor, "rb")
    try:
        _check_regular(path, os.fstat(descriptor))
    except BaseException:
        file.close()
        raise
    return file


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: expected a file, got a {_kind_of(status)}")


def _kind_of(status: os.stat_result) -> str:
    """What a path leads to, in words."""
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFIFO: "FIFO"}
    kinds |= {stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return kinds.get(stat.S_IFMT(status.st_mode), "special file")


def read_tree(file: BinaryIO, name: str) -> Any:
    """The tree in what is left of an open binary file; `name` says in an error where it came from.

    Raises:
        CheckpointError: for anything but a whole file of that kind, with nothing behind it.
    """
    if not file.seekable():
        file = io.BytesIO(file.read())
    entries, metadata = _checked_header(file, name)
    with _whole(name):
        return unflatten({entry.name: _read_tensor(file, entry) for entry in entries}, metadata)


@contextlib.contextmanager
def _whole(name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name}: not a whole checkpoint file: {printable(error)}") from None


def printable(value: object, max_length: int = 200) -> str:
    """Words from a file, fit for a terminal: on one line, none of them an order to it, not too many."""
    text = str(value)[: max_length + 1]
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= max_length else f"{text[:max_length]}..."


def tree_chunks(tree: Any) -> tuple[int, Iterator[bytes | memoryview]]:
    """The size of a tree's file, and the file part by part.

    Of tensors on another device there is a copy of one at a time.

    Raises:
        TypeError: as `flatten`.
        CheckpointError: for more tensors than a header can hold.
    """
    return tensor_chunks(*flatten(tree))


def tensor_chunks(
    tensors: Mapping[str, Tensor], metadata: dict[str, str]
) -> tuple[int, Iterator[bytes | memoryview]]:
    """As `tree_chunks`, of tensors by name; `metadata` is any text by any name."""
    # Wide numbers first: all of them lie where a machine can use them in place.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].itemsize)
    try:
        header = make_header(ordered, metadata)
    except ValueError as error:
        raise CheckpointError(f"cannot be saved: {error}") from None
    beginning = len(header).to_bytes(8, "little") + header
    size = len(beginning) + sum(tensor.nbytes for _, tensor in ordered)
    return size, itertools.chain([beginning], (_bytes_of(tensor) for _, tensor in ordered))


def read_entries(path: Path) -> list[Entry]:
    """What a file of tensors by name holds, from its header alone.

    Raises:
        CheckpointError: for anything but a whole file of that kind.
    """
    with open_regular(path, follow_link=True) as file:
        return _checked_header(file, str(path))[0]


def iterate_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of such a file and their names, one by one, on the CPU; raises as `read_entries`."""
    with open_regular(path, follow_link=True) as file:
        for entry in _checked_header(file, str(path))[0]:
            with _whole(str(path)):
                tensor = _read_tensor(file, entry)
            yield entry.name, tensor


def _bytes_of(tensor: Tensor) -> memoryview:
    plain = tensor.cpu().resolve_conj().resolve_neg().contiguous()
    return _memory_of(plain.reshape(-1).view(torch.uint8))


def _memory_of(numbers: Tensor) -> memoryview:
    return memoryview(numbers.numpy())  # type: ignore[arg-type]  # an array is a buffer, which mypy cannot see


def _checked_header(file: BinaryIO, name: str) -> tuple[list[Entry], dict[str, str]]:
    """The header of what is left of an open file, which is behind it then."""
    here = file.tell()
    size = file.seek(0, os.SEEK_END) - here
    file.seek(here)
    with _whole(name):
        return _read_header(file, size)


def _read_header(file: BinaryIO, size: int) -> tuple[list[Entry], dict[str, str]]:
    if size < 8:
        raise ValueError(f"expected at least 8 bytes, got {size}")
    length = int.from_bytes(file.read(8), "little")
    check_length(length, min(size - 8, MAX_HEADER_BYTES))
    return parse_header(file.read(length), size - 8 - length)


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


def flatten(tree: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by path, and the metadata that tells how to put them together again.

    Tensors that are one memory (tied weights) are stored once and come back as one tensor.

    Raises:
        TypeError: for a value of any other kind, or a key that is neither text nor a whole number.
    """
    tensors: dict[str, Tensor] = {}
    shape = _flatten(tree, "", tensors, {})
    return tensors, {"tree": json.dumps(shape)}


def unflatten(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Any:
    """The tree that `flatten` took apart.

    Raises:
        ValueError: for a shape that it does not give; RecursionError where that nests too deeply.
    """
    shape = metadata.get("tree")
    if shape is None:
        raise ValueError("expected metadata with the shape of a tree, got none")
    return _unflatten(parse_json(shape), tensors)


def _flatten(node: Any, path: str, tensors: dict[str, Tensor], stored: dict[Any, str]) -> Any:
    if isinstance(node, Tensor):
        return {"tensor": _store(node.detach(), path, tensors, stored)}
    if isinstance(node, Mapping):
        if not all(type(key) in (str, int) for key in node):
            raise TypeError(f"{path or 'checkpoint'}: expected keys that are text or whole numbers")
        return {"dict": [[k, _flatten(v, _join(path, k), tensors, stored)] for k, v in node.items()]}
    if isinstance(node, list | tuple):
        kind = "list" if isinstance(node, list) else "tuple"
        return {kind: [_flatten(v, _join(path, i), tensors, stored) for i, v in enumerate(node)]}
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"{path or 'checkpoint'}: cannot save a {type(node).__name__}")


def _join(path: str, key: str | int) -> str:
    return f"{path}.{key}" if path else str(key)


def _store(tensor: Tensor, path: str, tensors: dict[str, Tensor], stored: dict[Any, str]) -> str:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise TypeError(f"{path or 'checkpoint'}: cannot save a tensor that is sparse, quantized or meta")
    identity = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
    if tensor.numel() and identity in stored:
        return stored[identity]
    while path in tensors or path == METADATA:  # {"a.b": x, "a": {"b": y}} and {1: x, "1": y}
        path += "_"
    tensors[path] = tensor.contiguous()
    stored[identity] = path
    return path


def _unflatten(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if node is None or isinstance(node, bool | int | float | str):
        return node
    kind, content = next(iter(node.items())) if isinstance(node, dict) and len(node) == 1 else ("", None)
    if kind == "tensor" and isinstance(content, str) and content in tensors:
        return tensors[content]
    if kind == "dict" and isinstance(content, list) and all(map(_is_pair, content)):
        values = {key: _unflatten(value, tensors) for key, value in content}
        if len(values) == len(content):
            return values
    if kind in ("list", "tuple") and isinstance(content, list):
        return {"list": list, "tuple": tuple}[kind](_unflatten(value, tensors) for value in content)
    raise ValueError(f"its tree has a part that makes no sense: {kind or type(node).__name__}")


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in (str, int)
