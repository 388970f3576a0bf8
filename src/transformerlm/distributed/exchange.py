"""Whole tensors from tensors that are divided among ranks: in every round each rank receives one of them.

No rank holds more than its own rows of all tensors and one whole tensor, and each row is sent once, to the
rank that receives its tensor. All ranks receive at the same time, so that all can write at the same time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from transformerlm.distributed.ranks import Ranks
from transformerlm.storage.safetensors import DeferredTensor


def _not_received() -> NoReturn:
    raise RuntimeError("a divided tensor is whole only on the rank that `exchanged` sends it to")


@dataclass(frozen=True, kw_only=True)
class DividedTensor(DeferredTensor):
    """A tensor of which each rank has some rows: `rows_of`."""

    own: Tensor
    """This rank's rows, contiguous, on its device."""
    make: Callable[[], Tensor] = _not_received


def rows_of(rank: int, num_ranks: int, num_rows: int) -> slice:
    """Return a rank's rows of a tensor: as many for each, and fewer or none for the last ones.

    The division is that of FSDP2 and of `torch.chunk`.
    """
    share = -(-num_rows // num_ranks)
    return slice(min(rank * share, num_rows), min((rank + 1) * share, num_rows))


def received_by(rank: int, num_ranks: int, tensors: Mapping[str, DividedTensor]) -> list[str]:
    """Return the names of the tensors that a rank receives, in their order; those of a round are of alike
    sizes."""

    def by_size(name: str) -> tuple[int, int]:
        return -tensors[name].itemsize, -tensors[name].nbytes

    return sorted(tensors, key=by_size)[rank::num_ranks]


def exchanged(tensors: Mapping[str, DividedTensor], ranks: Ranks) -> Iterator[Tensor | None]:
    """Yield the whole tensors that `received_by` names, on the device; None in rounds that have none.

    Collective: all ranks take all values, each of which is a round.

    Args:
        tensors: the same on all ranks, except for their own rows.
    """
    names = [received_by(rank, ranks.size, tensors) for rank in range(ranks.size)]
    for round_ in itertools.zip_longest(*names):
        yield _received([tensors[name] if name else None for name in round_], ranks)


def _received(wanted: Sequence[DividedTensor | None], ranks: Ranks) -> Tensor | None:
    """Send each rank this rank's rows of the tensor that it wants; return the one that this rank wants."""
    mine, messages = wanted[ranks.rank], list[dist.P2POp]()
    whole = None if mine is None else torch.empty(mine.shape, dtype=mine.dtype, device=mine.own.device)
    for rank, theirs in enumerate(wanted):
        if rank != ranks.rank and theirs is not None and theirs.own.numel():
            messages.append(dist.P2POp(dist.isend, _bytes_of(theirs.own), rank))
        if mine is None or whole is None:
            continue
        rows = whole[rows_of(rank, ranks.size, len(whole))]
        if rank == ranks.rank:
            rows.copy_(mine.own)
        elif rows.numel():
            messages.append(dist.P2POp(dist.irecv, _bytes_of(rows), rank))
    for message in dist.batch_isend_irecv(messages) if messages else []:
        message.wait()
    return whole


def _bytes_of(rows: Tensor) -> Tensor:
    """Return the memory of contiguous rows: gloo does not send every dtype."""
    return rows.view(-1).view(torch.uint8)
