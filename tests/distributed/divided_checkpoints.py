"""Checks on ranks of a group (group.py): divided tensors are written in parts and read from them."""

import errno
import os
import weakref

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from transformerlm.checkpoint import parts
from transformerlm.checkpoint.store import checkpoint_paths, read_checkpoint
from transformerlm.distributed.exchange import exchanged, received_by, rows_of
from transformerlm.distributed.ranks import AgreedError
from transformerlm.distributed.sharding import Sharded
from transformerlm.errors import OutputError

SHAPES = {
    "even": (8, 5),
    "uneven": (7, 3, 2),
    "short": (1, 9),
    "vector": (6,),
    "empty": (0, 3),
    "last": (5, 2),
}


def whole_tensors():
    generator = torch.Generator().manual_seed(0)
    found = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    found |= {f"large {number}": torch.randn((64, 100), generator=generator) for number in range(4)}
    return found | {"half": found["even"].bfloat16(), "double": found["uneven"].double()}


def divided_tensors(ranks):
    mesh = init_device_mesh("cpu", (ranks.size,))
    return {name: distribute_tensor(t, mesh, [Shard(0)]) for name, t in whole_tensors().items()}


class LiveMemory(TorchDispatchMode):
    """Largest number of bytes that tensors had at a time which were made in the block."""

    def __init__(self):
        super().__init__()
        self.now, self.peak, self.seen = 0, 0, set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if function.overloadpacket.__name__.startswith("empty"):
            storage = result.untyped_storage()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.free, storage.nbytes())
        return result

    def free(self, num_bytes):
        self.now -= num_bytes


def check_exchange(ranks):
    """Each tensor comes to one rank, as it was, and no rank has two at a time."""
    whole, sharded = whole_tensors(), Sharded(ranks)
    divided = sharded.divided(divided_tensors(ranks))
    names = received_by(ranks.rank, ranks.size, divided)
    every_name = [name for rank in range(ranks.size) for name in received_by(rank, ranks.size, divided)]
    assert sorted(every_name) == sorted(whole)
    with LiveMemory() as memory:
        expected = iter(names)
        for tensor in exchanged(divided, ranks):
            if tensor is not None:
                assert torch.equal(tensor, whole[next(expected)])
            del tensor
    assert 0 < memory.peak <= max(t.nbytes for t in whole.values())


def check_parts(ranks, folder):
    """Parts are read by other numbers of ranks; one that cannot be written is an error of all ranks."""
    sharded = Sharded(ranks)
    sharded._device, sharded._mesh = torch.device("cpu"), init_device_mesh("cpu", (ranks.size,))
    divided = divided_tensors(ranks)
    model = {**divided, "tied": divided["even"]}
    training = {"optimizer": {"m": divided, "step": torch.tensor(3.0)}, "rng": torch.arange(9), "n": (1, "a")}
    write = parts.write_checkpoint_in_parts
    with LiveMemory() as memory:
        write(folder, 1, model, training, {"n": 1}, sharded)
    largest = max(tensor.nbytes for tensor in whole_tensors().values())
    assert largest <= memory.peak < 1.3 * largest  # with what is exchanged beside tensors
    found = read_checkpoint(folder / "step_00000001")
    again = sharded.read(found.training_state, below="optimizer.")
    assert isinstance(again["optimizer"]["m"]["uneven"], DTensor)
    assert again["n"] == (1, "a")
    for expected, got in zip(flatten_own(sharded, training), flatten_own(sharded, again), strict=True):
        assert torch.equal(expected, got)
    refuse_last_rank(ranks, lambda: write(folder, 2, model, training, {}, sharded))
    refuse_last_rank(ranks, lambda: write(folder, 1, model, training, {}, sharded))
    assert [path.name for path in checkpoint_paths(folder)] == ["step_00000001"]
    ranks.barrier()
    write(folder, 1, model, training, {"n": 2}, sharded)
    assert read_checkpoint(folder / "step_00000001").about == {"n": 2}
    assert sorted(os.listdir(folder)) == ["step_00000001"]
    ranks.barrier()


def flatten_own(sharded, tree):
    tensors = [*tree["optimizer"]["m"].values(), tree["optimizer"]["step"], tree["rng"]]
    return [sharded.own_part(tensor) for tensor in tensors]


def refuse_last_rank(ranks, write):
    """Write, where the last rank's disk is full after its first tensors."""

    def full_disk(path, chunks, **options):
        with path.open("wb") as file:
            file.write(next(chunks))
            file.write(next(chunks))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(AgreedError, match="No space left") as agreed:
        if ranks.rank == ranks.size - 1:
            patch.setattr(parts, "write_member", full_disk)
        write()
    assert agreed.value.exit_status == OutputError.exit_status
    ranks.barrier()  # rank 0 has removed what was written


def check_read_by_others(folder):
    """One process reads what ranks have written: whole, or the rows of any number of ranks."""
    found, whole = read_checkpoint(folder / "step_00000001"), whole_tensors()
    state = found.model_state()
    assert state["tied"] is state["even"]
    for name, tensor in whole.items():
        assert torch.equal(state[name], tensor)
    for num_ranks in (1, 2, 3, 9):
        rows = [
            found.model_state(rows=lambda entry, rank=rank, n=num_ranks: rows_of(rank, n, entry.shape[0]))
            for rank in range(num_ranks)
        ]
        for name, tensor in whole.items():
            assert torch.equal(torch.cat([own[name] for own in rows]), tensor)
