"""Helpers for tests of trees and safetensors files."""

import io

import torch

from transformerlm.storage.tree import read_tree, tree_chunks


def dump_tree(tree) -> bytes:
    size, chunks = tree_chunks(tree)
    data = b"".join(chunks)
    assert len(data) == size
    return data


def parse_tree(data, name):
    return read_tree(io.BytesIO(data), name)


def save_tree(tree, path):
    path.write_bytes(dump_tree(tree))


def numbers(dtype, *shape) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if dtype == torch.bool:
        return torch.randint(2, shape, generator=generator).bool()
    some = torch.randint(256, (*shape, dtype.itemsize), generator=generator, dtype=torch.uint8)
    return some.view(dtype).reshape(shape)  # any bits, the not-a-numbers among them


def same(left, right) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    left, right = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (left, right))
    return torch.equal(left, right)
