"""Ranks: the processes, on one machine or many, that torchrun starts to do one piece of work together.

The only importer of torch.distributed. What travels is bytes, never objects, so nothing is unpickled;
of text, tokens and models nothing is known here. A single rank exchanges nothing and imports no torch.
A function that takes a `World` is called by all ranks, by each at the same place of its work.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Literal

from transformerlm.errors import ConfigError, TransformerLMError
from transformerlm.world import World

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for another. A process that ends, however it does, breaks its connections, and
the others notice at once: this is for a machine without power or network. For longer work: `pulse`."""

_BUSY = b"busy"
_PULSE_SECONDS = 60.0


class AgreedError(TransformerLMError):
    """One rank's error, which all ranks know of and raise alike."""

    def __init__(self, lines: list[str], exit_status: int) -> None:
        super().__init__(lines)
        self.exit_status = exit_status


class LostRankError(TransformerLMError):
    """Another rank has ended before the work was done, or cannot be reached."""


@contextlib.contextmanager
def process_group(world: World, backend: Literal["gloo", "nccl"] = "gloo") -> Iterator[None]:
    """Connect the ranks, and part them when the block ends, however it does.

    Does nothing for a single rank, and where they are connected already.

    Args:
        backend: how tensors travel: "gloo" from CPU to CPU; "nccl" from GPU to GPU as well.

    Raises:
        ConfigError: nobody says where rank 0 is (MASTER_ADDR, MASTER_PORT).
        LostRankError: the ranks do not find each other.
    """
    if world.size == 1:
        yield
        return
    import torch.distributed as dist

    with contextlib.ExitStack() as stack:
        if not dist.is_initialized():
            if missing := {"MASTER_ADDR", "MASTER_PORT"} - os.environ.keys():
                raise ConfigError(
                    f"environment: expected {' and '.join(sorted(missing))}, as torchrun sets them"
                )
            backends = {"gloo": "gloo", "nccl": "cpu:gloo,cuda:nccl"}[backend]
            with _connected():
                dist.init_process_group(backends, timeout=TIMEOUT, world_size=world.size, rank=world.rank)
            stack.callback(dist.destroy_process_group)
        yield


@contextlib.contextmanager
def agreement(world: World) -> Iterator[None]:
    """All ranks leave the block together: without an error, or all with that of the first that has one.

    A rank that fails says so where its block ends. So what may fail in one rank and not in another is done
    in a block of which the others reach the end, or that of one within it, before they exchange anything.

    Raises:
        AgreedError: a rank has raised an error of the user's making, or an OSError. A single rank's own
            errors pass as they are.
    """
    if world.size == 1:
        yield
        return
    try:
        yield
    except (AgreedError, LostRankError):
        raise
    except TransformerLMError as error:
        _confer(world, json.dumps([error.lines, error.exit_status]).encode())
    except OSError as error:
        _confer(world, json.dumps([[f"error: {error}"], 74]).encode())
    else:
        while _confer(world, b""):
            pass


def pulse(world: World) -> Callable[[], None]:
    """For a rank at work while others wait in an `agreement`: to be called now and then, lest they give up.

    Costs nothing, but for once a minute.
    """
    last = time.monotonic()

    def beat() -> None:
        nonlocal last
        if world.size > 1 and time.monotonic() - last >= _PULSE_SECONDS:
            _confer(world, _BUSY)
            last = time.monotonic()

    return beat


def gathered(world: World, own: Iterator[bytes]) -> Iterator[bytes]:
    """On rank 0 what all ranks' iterators give: the first of each, in their order, the second of each, ...

    On the others nothing, but there too it has to be iterated over: that is what sends. Memory holds one
    item of each rank, for a rank draws its next when rank 0 has received the last. None may be empty.

    Raises:
        AgreedError: an iterator has raised an error.
    """
    while True:
        with agreement(world):
            data = next(own, b"")
        sizes = _sizes(world, len(data))
        if not any(sizes):
            return
        # All are received before the first is used, which may fail: then no rank is left in the middle.
        yield from filter(None, _exchanged(world, data, sizes, everywhere=False))


def all_gather_bytes(world: World, data: bytes) -> list[bytes]:
    """What each rank gives, in their order, on all of them."""
    return _exchanged(world, data, _sizes(world, len(data)), everywhere=True)


def broadcast_bytes(world: World, data: bytes) -> bytes:
    """What rank 0 gives, on all ranks."""
    size = _sizes(world, len(data))[0]
    if world.size == 1 or not size:
        return data[:size]
    import torch
    import torch.distributed as dist

    tensor = torch.frombuffer(bytearray(data if world.is_main else size), dtype=torch.uint8)
    with _connected():
        dist.broadcast(tensor, 0)
    return tensor.numpy().tobytes()


def barrier(world: World) -> None:
    """Wait until all ranks are here."""
    _sizes(world, 0)


def _confer(world: World, message: bytes) -> bool:
    """Each rank says: done (b""), busy, or what went wrong, which all raise; whether one is busy."""
    messages = all_gather_bytes(world, message)
    for answer in messages:
        if answer not in (b"", _BUSY):
            raise AgreedError(*json.loads(answer))
    return _BUSY in messages


def _sizes(world: World, size: int) -> list[int]:
    """A number of each rank, on all."""
    if world.size == 1:
        return [size]
    import torch
    import torch.distributed as dist

    found = [torch.zeros(1, dtype=torch.int64) for _ in range(world.size)]
    with _connected():
        dist.all_gather(found, torch.tensor([size]))
    return [int(number) for number in found]


def _exchanged(world: World, data: bytes, sizes: list[int], *, everywhere: bool) -> list[bytes]:
    """What each rank gives, on all or on rank 0 alone; the others get nothing then."""
    if world.size == 1 or not any(sizes):
        return [data] * world.size
    import torch
    import torch.distributed as dist

    own = torch.frombuffer(bytearray(data.ljust(max(sizes))), dtype=torch.uint8)
    parts = [torch.empty_like(own) for _ in sizes] if everywhere or world.is_main else []
    with _connected():
        if everywhere:
            dist.all_gather(parts, own)
        else:
            dist.gather(own, parts)
    return [part.numpy()[:size].tobytes() for part, size in zip(parts, sizes, strict=bool(parts))]


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch raises where a connection breaks, or nothing comes in time
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise LostRankError(f"another rank has ended, or cannot be reached: {reason}") from None
