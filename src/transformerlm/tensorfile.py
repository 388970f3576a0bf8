"""A tree of dicts, lists, numbers, strings and tensors as one safetensors file, and back. No pickle.

Tensors are stored under their path in the tree; the shape of the tree is JSON in the file's
metadata, so that any optimizer's nested state survives with its integer keys and tuples.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from transformerlm.errors import CheckpointError

UNREADABLE = (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError)


def save_tree(tree: Any, path: str | os.PathLike[str]) -> None:
    """Write `tree` to `path`, in place (the callers commit)."""
    tensors, metadata = flatten(tree)
    safetensors.torch.save_file(tensors, path, metadata)


def load_tree(path: str | os.PathLike[str]) -> Any:
    """The tree in the file `path`, tensors on the CPU; CheckpointError where it is not one."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            return unflatten(tensors, file.metadata())
    except UNREADABLE as error:
        raise _damaged(str(path), error) from None


def dump_tree(tree: Any) -> bytes:
    """The bytes that `save_tree` would write."""
    tensors, metadata = flatten(tree)
    return safetensors.torch.save(tensors, metadata)


def parse_tree(data: bytes, name: str) -> Any:
    """The tree in these bytes; `name` says in an error where they came from."""
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return unflatten(tensors, header["__metadata__"])
    except UNREADABLE as error:
        raise _damaged(name, error) from None


def _damaged(name: str, error: BaseException) -> CheckpointError:
    return CheckpointError(f"{name}: not a whole checkpoint file: {type(error).__name__}: {error}")


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
    """The tree that `flatten` took apart."""
    return _unflatten(json.loads(metadata["tree"]), tensors)


def _flatten(node: Any, path: str, tensors: dict[str, Tensor], stored: dict[Any, str]) -> Any:
    if isinstance(node, Tensor):
        return {"tensor": _store(node.detach(), path, tensors, stored)}
    if isinstance(node, Mapping):
        if not all(isinstance(key, str | int) for key in node):
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
    identity = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
    if tensor.numel() and identity in stored:
        return stored[identity]
    # safetensors refuses tensors that are parts of one storage: such a part becomes a copy.
    is_part = tensor.untyped_storage().nbytes() != tensor.nbytes
    tensors[path] = tensor.clone().contiguous() if is_part else tensor.contiguous()
    stored[identity] = path
    return path


def _unflatten(shape: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(shape, dict):
        return shape
    ((kind, content),) = shape.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unflatten(value, tensors) for key, value in content}
    return {"list": list, "tuple": tuple}[kind](_unflatten(value, tensors) for value in content)
