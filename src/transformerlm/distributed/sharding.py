"""How several ranks train one model: with a copy on each (DDP), or with a part of it on each (FSDP2).

PyTorch's own engine, applied to a finished model from outside. Each rank computes the mean loss of its share
of the batch, and shares are equally large: the mean of the ranks' losses is the loss, that of their gradients
the gradient. Of FSDP2 and its tensors nothing is imported before they are needed: that takes half a second.

Source: Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", 2020;
Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020 (of which
"full" is stage 3); Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023.
"""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from transformerlm.distributed.collectives import broadcast_bytes
from transformerlm.distributed.world import World
from transformerlm.storage.tree import flatten, unflatten


def replicate(module: nn.Module) -> nn.Module:
    """The module whose backward pass leaves the mean of all ranks' gradients in each copy (DDP)."""
    # Buffers are the same everywhere and stay as they are. What says so was renamed in PyTorch 2.15.
    names = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    # Gradients lie in what is exchanged, not beside it.
    return DistributedDataParallel(module, gradient_as_bucket_view=True, **options)


def shard_(root: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Divide the parameters among the ranks, in place (FSDP2).

    A block's are put together while it computes, and all that is outside of the blocks from the first use in
    a step to the last. Parameters become DTensors: make the optimizer afterwards.
    """
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in (*blocks, root):
        fully_shard(module, mesh=mesh)


@contextlib.contextmanager
def micro_batch(module: nn.Module, *, synchronised: bool) -> Iterator[None]:
    """Around the passes of a micro-batch: the last of a step is synchronised, those before only add up."""
    from torch.distributed.fsdp import FSDPModule

    with contextlib.ExitStack() as stack:
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(synchronised)
            module.set_is_last_backward(synchronised)
        elif isinstance(module, DistributedDataParallel) and not synchronised:
            stack.enter_context(module.no_sync())
        yield


def mean(world: World, values: Tensor) -> Tensor:
    """The ranks' mean of a tensor, on all of them; `values` become their sum."""
    dist.all_reduce(values)
    return values / world.size


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, also of one that is divided; called by all ranks, for all get it."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def to_rank_0(world: World, tree: Any) -> Any:
    """A tree of dicts, lists, values and tensors, with these whole and on the CPU; of use on rank 0 only.

    One after the other: a device holds one more tensor at a time.
    """
    done: dict[int, Tensor | None] = {}  # a tensor that occurs twice (tied weights) stays one

    def visit(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: visit(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return type(node)(map(visit, node))
        if not isinstance(node, Tensor):
            return node
        if id(node) not in done:
            tensor = whole(node.detach())
            done[id(node)] = tensor.cpu() if world.is_main else None
        return done[id(node)]

    return visit(tree)


def from_rank_0(world: World, tree: Any, place: Callable[[str, Tensor], Tensor]) -> Any:
    """Rank 0's tree on all ranks, with each tensor as `place(its path in the tree, the tensor)` makes it.

    One after the other: the CPU of a rank other than the first holds one whole tensor at a time.
    """
    tensors, metadata = flatten(tree) if world.is_main else ({}, {})
    rows = [[path, str(t.dtype).removeprefix("torch."), list(t.shape)] for path, t in tensors.items()]
    metadata, rows = json.loads(broadcast_bytes(world, json.dumps([metadata, rows]).encode()))
    placed = {}
    for path, dtype, shape in rows:
        tensor = tensors[path] if world.is_main else torch.empty(shape, dtype=getattr(torch, dtype))
        dist.broadcast(tensor.view(-1).view(torch.uint8), 0)
        placed[path] = place(path, tensor)
    return unflatten(placed, metadata)


def divided(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a tensor that all ranks have whole, divided as `like` is, if it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or not tensor.dim():
        return tensor
    mesh = like.device_mesh
    return distribute_tensor(tensor.to(like.device), mesh, like.placements, src_data_rank=None)
