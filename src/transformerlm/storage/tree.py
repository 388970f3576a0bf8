"""Trees of dicts, lists, tuples, numbers, strings and tensors as one safetensors file, without pickle.

Tensors are stored under their path in the tree. The structure of the tree is JSON in the file's metadata, so
that any optimizer's nested state survives with its integer keys and tuples.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from transformerlm.errors import CheckpointError
from transformerlm.storage.safetensors import (
    Convert,
    DeferredTensor,
    Rows,
    invalid_as_checkpoint_error,
    read_tensors,
    tensor_chunks,
)
from transformerlm.storage.safetensors_header import METADATA, parse_json
from transformerlm.storage.untrusted import open_regular, printable


def load_tree(
    path: str | os.PathLike[str],
    *more: str | os.PathLike[str],
    follow_link: bool = True,
    convert: Convert | None = None,
    rows: Rows | None = None,
) -> Any:
    """Read the tree in the file `path`, with tensors on the CPU.

    Args:
        more: further files with tensors of the tree, whose structure is in the first one.
        convert: called with each tensor as soon as it has been read; the tree has what it returns.
        rows: see `read_tensors`.

    Raises:
        CheckpointError: not whole files of a tree.
        OSError: one cannot be read.
    """
    tensors, structure = dict[str, Any](), dict[str, str]()
    for part in (path, *more):
        with open_regular(Path(part), follow_link=follow_link) as file:
            found, metadata = read_tensors(file, str(part), convert, rows)
        if twice := tensors.keys() & found.keys():
            raise CheckpointError(f"{part}: {printable(min(twice))}: is in another part already")
        tensors |= found
        structure = structure or metadata
    with invalid_as_checkpoint_error(str(path)):
        return unflatten(tensors, structure)


def read_tree(file: BinaryIO, name: str) -> Any:
    """Read the rest of an open binary file as a tree, with tensors on the CPU.

    Args:
        name: name of the file in error messages.

    Raises:
        CheckpointError: not a whole file of a tree, or something behind it.
    """
    if not file.seekable():
        file = io.BytesIO(file.read())
    tensors, metadata = read_tensors(file, name)
    with invalid_as_checkpoint_error(name):
        return unflatten(tensors, metadata)


def tree_chunks(tree: Any) -> tuple[int, Iterator[bytes | memoryview]]:
    """Return the size of a tree's file in bytes, and its content part by part.

    Of tensors on another device, one at a time is copied to the CPU; of deferred ones, one at a time is made.

    Raises:
        TypeError: a value or key that a file cannot hold, as in `flatten`.
        CheckpointError: more tensors than a header can hold.
    """
    return tensor_chunks(*flatten(tree))


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Return a tree with `function(tensor)` in place of each tensor; one that occurs twice is one again."""
    done: dict[int, Any] = {}

    def visit(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {key: visit(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return type(node)(map(visit, node))
        if not isinstance(node, Tensor):
            return node
        if id(node) not in done:
            done[id(node)] = function(node)
        return done[id(node)]

    return visit(tree)


def flatten(tree: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a tree's tensors by path, and metadata from which `unflatten` rebuilds the tree.

    Tensors that share one memory (tied weights) are stored once and come back as one tensor.

    Raises:
        TypeError: for a value of any other kind, or a key that is neither a string nor an integer.
    """
    tensors: dict[str, Any] = {}  # deferred tensors too, for `tree_chunks`
    structure = _flatten(tree, "", tensors, {})
    return tensors, {"tree": json.dumps(structure)}


def unflatten(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> Any:
    """Rebuild a tree from what `flatten` returned.

    Raises:
        ValueError: metadata that `flatten` does not return.
        RecursionError: the tree nests too deeply.
    """
    structure = metadata.get("tree")
    if structure is None:
        raise ValueError("expected metadata with the shape of a tree, got none")
    return _unflatten(parse_json(structure), tensors)


def _flatten(node: Any, path: str, tensors: dict[str, Any], stored: dict[Any, str]) -> Any:
    if isinstance(node, Tensor | DeferredTensor):
        return {"tensor": _store(node, path, tensors, stored)}
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


def _store(
    tensor: Tensor | DeferredTensor,
    path: str,
    tensors: dict[str, Any],
    stored: dict[Any, str],
) -> str:
    """Add a tensor to `tensors`, unless the same memory is in `stored`; return the name that it has there."""
    identity = _identity(tensor, path)
    if tensor.nbytes and identity in stored:
        return stored[identity]
    while path in tensors or path == METADATA:  # {"a.b": x, "a": {"b": y}} and {1: x, "1": y}
        path += "_"
    tensors[path] = tensor.detach().contiguous() if isinstance(tensor, Tensor) else tensor
    stored[identity] = path
    return path


def _identity(tensor: Tensor | DeferredTensor, path: str) -> Any:
    """Return what tensors that share one memory have in common."""
    if isinstance(tensor, DeferredTensor):
        return id(tensor)
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise TypeError(f"{path or 'checkpoint'}: cannot save a tensor that is sparse, quantized or meta")
    return tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _unflatten(node: Any, tensors: Mapping[str, Any]) -> Any:
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
