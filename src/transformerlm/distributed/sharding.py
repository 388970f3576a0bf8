"""Parallel training of one model on several ranks: a copy on each (DDP), or a part of it on each (FSDP2).

`Parallelism` is a single process, which leaves a model unchanged; `Replicated` and `Sharded` apply PyTorch's
implementations to a finished model from outside. Each rank computes the mean loss of its share of the batch.
All shares have one size, so the loss and the gradient of the batch are the means over the ranks. FSDP2 and
its tensors are imported only when they are used, since that takes half a second.

Source: Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", 2020;
Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020 (of which
"full" is stage 3); Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from transformerlm.distributed.ranks import Ranks
from transformerlm.storage.tree import flatten, unflatten


def make_parallelism(
    sharding: Literal["none", "full"], ranks: Ranks, dtype: torch.dtype | None = None
) -> Parallelism:
    """Return the parallelism that [runtime].sharding names; for a single process, none.

    Args:
        dtype: of divided parameters while they are whole, for `Sharded`; None: their own.
    """
    if ranks.size == 1:
        return Parallelism(ranks)
    return Sharded(ranks, dtype) if sharding == "full" else Replicated(ranks)


class Parallelism:
    """Division of a model and its batch among ranks; this base class is a single process, without
    division."""

    keeps_model_whole = True
    """True if each rank has the whole model."""
    can_repeat_passes = True
    """True if a rank may repeat a failed forward pass; not where the others wait for it in a collective."""
    needs_trial_pass = False
    """True if a trial pass must precede the first step (see `Replicated`)."""
    compiles_blocks = False
    """True if blocks are compiled one by one, since gradients or parameters are exchanged between them."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def shard_(self, root: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
        """Divide the parameters among the ranks, in place; to be done before the optimizer is made."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module to call in training: its backward pass averages gradients over the ranks."""
        return module

    def micro_batch(self, module: nn.Module, *, synchronised: bool) -> AbstractContextManager[None]:
        """Context manager for the passes of a micro-batch.

        Gradients are exchanged only if `synchronised`, in the last micro-batch of a step; before, they
        accumulate.
        """
        return contextlib.nullcontext()

    def reduce_batch(self, loss: Tensor, norms: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return loss `[]` and L2 norms `[]` over the whole batch, from those over this rank's share."""
        return loss, dict(norms)

    def whole(self, tensor: Tensor) -> Tensor:
        """Return the full tensor, on every rank, of one that may be divided among the ranks."""
        return tensor

    def own_part(self, tensor: Tensor) -> Tensor:
        """Return this rank's part, which shares its memory, of a tensor that may be divided."""
        return tensor

    def whole_norms(self, norms: Tensor) -> Tensor:
        """Return the L2 norms of whole tensors, `[tensors]`, from those of this rank's parts."""
        return norms

    def model_state(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the full weights by name; valid on rank 0 only."""
        return model.state_dict()

    def to_rank_0(self, tree: Any) -> Any:
        """Return a tree of dicts, lists, values and tensors with full tensors; valid on rank 0 only."""
        return tree

    def weights_from_rank_0(self, state: Mapping[str, Any], like: Tensor) -> Mapping[str, Any]:
        """Return rank 0's weights by name, divided among the ranks in the way of the parameter `like`."""
        return state

    def training_state_from_rank_0(self, state: Mapping[str, Any], like: Tensor) -> Mapping[str, Any]:
        """Return rank 0's training state; tensors under "optimizer" are divided in the way of `like`."""
        return state


class Replicated(Parallelism):
    """Each rank has a copy of the model; gradients are averaged (DDP)."""

    needs_trial_pass = True
    """DDP learns the order of the gradients in its first backward pass and regroups their exchange after it.
    With a trial pass before the first step, all steps are computed in the same way."""
    compiles_blocks = True

    def wrap(self, module: nn.Module) -> nn.Module:
        """Wrap a module in DDP."""
        # Buffers are equal on all ranks and never change. The option for that was renamed in PyTorch 2.15.
        names = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        options: dict[str, Any] = {name: False}
        # Gradients are views of the exchanged buckets, which saves a copy of them.
        return DistributedDataParallel(module, gradient_as_bucket_view=True, **options)

    def micro_batch(self, module: nn.Module, *, synchronised: bool) -> AbstractContextManager[None]:
        """DDP's `no_sync`, unless `synchronised`."""
        if synchronised or not isinstance(module, DistributedDataParallel):
            return contextlib.nullcontext()
        return module.no_sync()

    def reduce_batch(self, loss: Tensor, norms: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of the losses, root of the sum of the squared norms: a single exchange."""
        values = torch.stack([loss, *(norm.square() for norm in norms.values())])
        dist.all_reduce(values)
        loss, *squares = values / self.ranks.size
        all_norms = ((square * self.ranks.size).sqrt() for square in squares)
        return loss, dict(zip(norms, all_norms, strict=True))

    def weights_from_rank_0(self, state: Mapping[str, Any], like: Tensor) -> Mapping[str, Any]:
        """Broadcast the tensors one after the other."""
        return _from_rank_0(self.ranks, state, lambda path, tensor: self._part(tensor, like))

    def training_state_from_rank_0(self, state: Mapping[str, Any], like: Tensor) -> Mapping[str, Any]:
        """Broadcast the other values, then the tensors one after the other."""

        def place(path: str, tensor: Tensor) -> Tensor:
            return self._part(tensor, like) if path.startswith("optimizer.") else tensor

        return _from_rank_0(self.ranks, state, place)

    def _part(self, tensor: Tensor, like: Tensor) -> Tensor:
        """Return this rank's part of a full tensor if the parameter `like` is divided, else the tensor."""
        return tensor


class Sharded(Replicated):
    """Each rank has a part of every parameter, its gradient and its optimizer state (FSDP2).

    The parameters of a block are gathered while it computes, those outside the blocks from their first use in
    a step to their last. The next block's are on their way meanwhile; the last block's stay for the backward
    pass, which begins with them. Parameters become DTensors.

    Args:
        dtype: in which parameters are sent, and are while they are whole: half the bytes in bfloat16. Each
            rank's own part, the sums of gradients and the optimizer stay float32, and so does what passes
            between the blocks. None: float32.
    """

    keeps_model_whole = False
    can_repeat_passes = False
    needs_trial_pass = False

    def __init__(self, ranks: Ranks, dtype: torch.dtype | None = None) -> None:
        super().__init__(ranks)
        self.dtype = dtype

    def shard_(self, root: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
        """Convert the parameters to DTensors, in place."""
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(device.type, (self.ranks.size,))
        policy = MixedPrecisionPolicy(self.dtype, torch.float32, cast_forward_inputs=False)
        parts = list(blocks)
        for block in parts:
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=block is not parts[-1])
        fully_shard(root, mesh=mesh, mp_policy=policy)
        self._prefetch(root, parts)

    def _prefetch(self, root: Any, blocks: Sequence[Any]) -> None:
        """Gather the parameters of the next block, forward and backward, while one computes."""
        root.set_modules_to_forward_prefetch(blocks[:1])
        for before, after in itertools.pairwise(blocks):
            before.set_modules_to_forward_prefetch([after])
            after.set_modules_to_backward_prefetch([before])

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module unchanged: `shard_` has prepared it."""
        return module

    @contextlib.contextmanager
    def micro_batch(self, module: nn.Module, *, synchronised: bool) -> Iterator[None]:
        """Make FSDP2 exchange gradients, or accumulate them."""
        from torch.distributed.fsdp import FSDPModule

        assert isinstance(module, FSDPModule)
        module.set_requires_gradient_sync(synchronised)
        module.set_is_last_backward(synchronised)
        yield

    def whole(self, tensor: Tensor) -> Tensor:
        """Return `full_tensor()` of a DTensor."""
        from torch.distributed.tensor import DTensor

        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def own_part(self, tensor: Tensor) -> Tensor:
        """Return the local tensor of a DTensor."""
        from torch.distributed.tensor import DTensor

        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def whole_norms(self, norms: Tensor) -> Tensor:
        """Root of the sum of the parts' squares: a single exchange for all tensors."""
        squares = norms.square()
        dist.all_reduce(squares)
        return squares.sqrt()

    def model_state(self, model: nn.Module) -> dict[str, Tensor]:
        """Gather the weights on rank 0."""
        return dict(self.to_rank_0(model.state_dict(keep_vars=True)))

    def to_rank_0(self, tree: Any) -> Any:
        """Gather the tensors one after the other: a device holds one full tensor at a time."""
        done: dict[int, Tensor | None] = {}  # a tensor that occurs twice (tied weights) is gathered once

        def visit(node: Any) -> Any:
            if isinstance(node, dict):
                return {key: visit(value) for key, value in node.items()}
            if isinstance(node, list | tuple):
                return type(node)(map(visit, node))
            if not isinstance(node, Tensor):
                return node
            if id(node) not in done:
                tensor = self.whole(node.detach())
                done[id(node)] = tensor.cpu() if self.ranks.is_main else None
            return done[id(node)]

        return visit(tree)

    def _part(self, tensor: Tensor, like: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(like, DTensor) or not tensor.dim():
            return tensor
        whole = tensor.to(like.device)
        return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _from_rank_0(
    ranks: Ranks, tree: Mapping[str, Any], place: Callable[[str, Tensor], Tensor]
) -> Mapping[str, Any]:
    """Broadcast a tree from rank 0; each tensor is replaced by `place(path in the tree, tensor)`.

    Tensors are sent one after the other: ranks other than 0 hold one full tensor on the CPU at a time.
    """
    tensors, metadata = flatten(tree) if ranks.is_main else ({}, {})
    rows = [[path, str(t.dtype).removeprefix("torch."), list(t.shape)] for path, t in tensors.items()]
    metadata, rows = json.loads(ranks.broadcast_bytes(json.dumps([metadata, rows]).encode()))
    placed = {}
    for path, dtype, shape in rows:
        own = tensors.get(path)
        tensor = own if own is not None else torch.empty(shape, dtype=getattr(torch, dtype), device="cpu")
        dist.broadcast(tensor.view(-1).view(torch.uint8), 0)
        placed[path] = place(path, tensor)
    found: dict[str, Any] = unflatten(placed, metadata)
    return found
