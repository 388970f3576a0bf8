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
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from transformerlm.distributed.exchange import DividedTensor, rows_of
from transformerlm.distributed.ranks import Ranks
from transformerlm.storage.safetensors import Convert, Rows
from transformerlm.storage.safetensors_header import Entry
from transformerlm.storage.tree import flatten, map_tensors, unflatten


class ReadTree(Protocol):
    """Function that reads a tree from files, such as `Checkpoint.model_state`."""

    def __call__(self, convert: Convert | None = None, rows: Rows | None = None) -> Mapping[str, Any]:
        """See `Checkpoint.model_state`."""


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

        Copies exchange gradients only if `synchronised`, in the last micro-batch of a step; before, they
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

    def to_rank_0(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return full weights by name; valid on rank 0 only."""
        return dict(state)

    def divided(self, tree: Any) -> Any:
        """Return a tree of dicts, lists, values and tensors with `DividedTensor`s in place of divided ones.

        A tensor that occurs twice (tied weights) becomes one.
        """
        return tree

    def read(self, read: ReadTree, below: str = "") -> Mapping[str, Any]:
        """Read a tree that all ranks need, with the tensors divided as the model's are; collective.

        Args:
            below: tensors whose path in the tree begins so are those that may be divided.

        Raises:
            CheckpointError: it cannot be read.
        """
        return read()


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

    def read(self, read: ReadTree, below: str = "") -> Mapping[str, Any]:
        """Read it on rank 0, and broadcast it."""
        with self.ranks.while_rank_0_works():
            tree = read() if self.ranks.is_main else {}
        return _from_rank_0(self.ranks, tree)


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

        self._device, self._mesh = device, init_device_mesh(device.type, (self.ranks.size,))
        mesh = self._mesh
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
        """Have gradients exchanged in every micro-batch: until then a rank holds those of the whole model."""
        from torch.distributed.fsdp import FSDPModule

        assert isinstance(module, FSDPModule)
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

    def to_rank_0(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gather the weights one after the other: a device holds one full tensor at a time."""

        def gathered(tensor: Tensor) -> Tensor | None:
            whole = self.whole(tensor.detach())
            return whole.cpu() if self.ranks.is_main else None

        return dict(map_tensors(gathered, state))

    def divided(self, tree: Any) -> Any:
        """Replace DTensors."""
        from torch.distributed.tensor import DTensor

        def divided(tensor: Tensor) -> Tensor | DividedTensor:
            if not isinstance(tensor, DTensor):
                return tensor
            own = tensor.to_local().detach().contiguous()
            return DividedTensor(tuple(tensor.shape), tensor.dtype, own=own)

        return map_tensors(divided, tree)

    def read(self, read: ReadTree, below: str = "") -> Mapping[str, Any]:
        """Read this rank's rows of each tensor; all ranks read the files."""
        from torch.distributed.tensor import DTensor, Shard

        def is_divided(entry: Entry) -> bool:
            return bool(entry.shape) and entry.name.startswith(below)

        def rows(entry: Entry) -> slice:
            if not is_divided(entry):
                return slice(None)
            return rows_of(self.ranks.rank, self.ranks.size, entry.shape[0])

        def convert(entry: Entry, own: Tensor) -> Tensor:
            if not is_divided(entry):
                return own
            sizes: dict[str, Any] = {"shape": torch.Size(entry.shape), "stride": _strides(entry.shape)}
            return DTensor.from_local(own.to(self._device), self._mesh, [Shard(0)], run_check=False, **sizes)

        with self.ranks.collective_errors():
            return read(convert=convert, rows=rows)


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor."""
    return tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))


def _from_rank_0(ranks: Ranks, tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Broadcast a tree from rank 0, one tensor after the other."""
    tensors, metadata = flatten(tree) if ranks.is_main else ({}, {})
    rows = [[path, str(t.dtype).removeprefix("torch."), list(t.shape)] for path, t in tensors.items()]
    metadata, rows = json.loads(ranks.broadcast_bytes(json.dumps([metadata, rows]).encode()))
    received = {}
    for path, dtype, shape in rows:
        own = tensors.get(path)
        tensor = own if own is not None else torch.empty(shape, dtype=getattr(torch, dtype), device="cpu")
        dist.broadcast(tensor.view(-1).view(torch.uint8), 0)
        received[path] = tensor
    found: dict[str, Any] = unflatten(received, metadata)
    return found
