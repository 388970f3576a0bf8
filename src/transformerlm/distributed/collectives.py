"""Ranks: the processes, on one machine or many, that torchrun starts to do one piece of work together.

With sharding.py, which divides a model among them, the only importer of torch.distributed. What travels
here is bytes and numbers, never objects, so nothing is unpickled; of text, tokens and models nothing is
known. A single rank exchanges nothing and imports no torch.
A function that takes a `World` is called by all ranks, by each at the same place of its work.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Literal

from transformerlm.distributed.world import World
from transformerlm.errors import ConfigError, Key, Problem, TransformerLMError
from transformerlm.storage.files import system_error

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for another. A process that ends, however it does, breaks its connections, and
the others notice at once: this is for a machine without power or network. For longer work: `heartbeat`."""

_BUSY = b"busy"
_PULSE_SECONDS = 60.0
_LAST_WORD = "transformerlm: last word"


class AgreedError(TransformerLMError):
    """One rank's error, which all ranks know of and raise alike."""

    def __init__(self, problems: list[tuple[list[str], str, str]], exit_status: int) -> None:
        super().__init__([Problem(Key(*key), what, source) for key, what, source in problems])
        self.exit_status = exit_status


class LostRankError(TransformerLMError):
    """Another rank has ended before the work was done, or cannot be reached."""


@contextlib.contextmanager
def process_group(world: World, backend: Literal["gloo", "nccl"] = "gloo") -> Iterator[None]:
    """Connect the ranks, and part them when the block ends, however it does.

    Does nothing for a single rank, and where they are connected already.

    Args:
        backend: how tensors travel: "gloo" from CPU to CPU; "nccl", where there are GPUs, between those too.

    Raises:
        ConfigError: nobody says where rank 0 is (MASTER_ADDR, MASTER_PORT).
        LostRankError: the ranks do not find each other.
    """
    if world.size == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    with contextlib.ExitStack() as stack:
        if not dist.is_initialized():
            if missing := {"MASTER_ADDR", "MASTER_PORT"} - os.environ.keys():
                raise ConfigError(
                    f"environment: expected {' and '.join(sorted(missing))}, as torchrun sets them"
                )
            has_gpus = backend == "nccl" and torch.cuda.is_available()
            with _connected():
                backends = "cpu:gloo,cuda:nccl" if has_gpus else "gloo"
                dist.init_process_group(backends, timeout=TIMEOUT, world_size=world.size, rank=world.rank)
            stack.callback(dist.destroy_process_group)
            # Gloo's threads let go of a tensor a moment after its exchange; those that come to it only when
            # Python is being shut down abort the process.
            stack.callback(time.sleep, 0.1)
        yield


@contextlib.contextmanager
def collective_errors(world: World) -> Iterator[None]:
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
        _confer(world, json.dumps([error.problems, error.exit_status]).encode())
    except OSError as error:
        _confer(world, json.dumps([[([], system_error(error), "")], 74]).encode())
    else:
        while _confer(world, b""):
            pass


def heartbeat(world: World) -> Callable[[], None]:
    """Return a heartbeat callback.

    A rank that works long inside `collective_errors` calls it so that waiting ranks do not time out; it
    communicates at most once a minute.
    """
    last = time.monotonic()

    def beat() -> None:
        nonlocal last
        if world.size > 1 and time.monotonic() - last >= _PULSE_SECONDS:
            _confer(world, _BUSY)
            last = time.monotonic()

    return beat


@contextlib.contextmanager
def while_rank_0_works(world: World) -> Iterator[None]:
    """`collective_errors` around work of rank 0 alone, however long it takes; the others wait.

    The work must not communicate.
    """
    is_awaited = world.is_main and world.size > 1
    with collective_errors(world), _pulsing(world) if is_awaited else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def fail_together(world: World) -> Iterator[None]:
    """What ends one rank ends all, at whatever place of their work, and all know why.

    For work in which ranks exchange more than what is here, as in training: an error that is not agreed on
    is left in writing before its rank goes; the others, whose connections break, find it there.

    Raises:
        AgreedError: another rank's error.
        LostRankError: another rank has ended without a word.
    """
    if world.size == 1:
        yield
        return
    try:
        with _connected():
            yield
    except AgreedError:
        raise
    except LostRankError:
        if word := _last_word():
            raise AgreedError(*json.loads(word)) from None
        raise
    except TransformerLMError as error:
        _last_word([error.problems, error.exit_status])
        raise
    except OSError as error:
        _last_word([[([], system_error(error), "")], 74])
        raise


def part(world: World) -> None:
    """Wait for each other at the end of all work, unless it has ended badly for one alone."""
    with contextlib.suppress(LostRankError):
        if not _last_word():
            barrier(world)


def gathered(world: World, own: Iterator[bytes]) -> Iterator[bytes]:
    """On rank 0 what all ranks' iterators give: the first of each, in their order, the second of each, ...

    On the others nothing, but there too it has to be iterated over: that is what sends. Memory holds one
    item of each rank, for a rank draws its next when rank 0 has received the last. None may be empty.

    Raises:
        AgreedError: an iterator has raised an error.
    """
    while True:
        with collective_errors(world):
            data = next(own, b"")
        sizes = _sizes(world, len(data))
        if not any(sizes):
            return
        # All are received before the first is used, which may fail: then no rank is left in the middle.
        yield from filter(None, _exchanged(world, data, sizes, everywhere=False))


def all_gather_bytes(world: World, data: bytes) -> list[bytes]:
    """What each rank gives, in their order, on all of them."""
    return _exchanged(world, data, _sizes(world, len(data)), everywhere=True)


def all_gather_numbers(world: World, numbers: Sequence[float]) -> list[list[float]]:
    """What each rank gives, as many on each, in their order, on all of them: a single exchange."""
    if world.size == 1:
        return [list(numbers)]
    import torch
    import torch.distributed as dist

    own = torch.tensor(numbers, dtype=torch.float64)
    found = [torch.empty_like(own) for _ in range(world.size)]
    with _connected():
        dist.all_gather(found, own)
    return [row.tolist() for row in found]


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
    return [int(number) for (number,) in all_gather_numbers(world, [size])]


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
def _pulsing(world: World) -> Iterator[None]:
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_PULSE_SECONDS):
            _confer(world, _BUSY)

    with ThreadPoolExecutor(1) as thread:
        beating = thread.submit(beat)
        try:
            yield
        finally:
            done.set()
            beating.result()  # where that has raised an error, the others have left already


def _last_word(own: object = None) -> bytes:
    """Leave this rank's `own`; or read what a rank has left, nothing where none has."""
    import torch.distributed as dist

    with contextlib.suppress(RuntimeError):  # who keeps it may be gone
        store = dist.distributed_c10d._get_default_store()
        if own:
            store.set(_LAST_WORD, json.dumps(own))
        elif store.check([_LAST_WORD]):
            return bytes(store.get(_LAST_WORD))
    return b""


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    import torch.distributed as dist

    try:
        yield
    except RuntimeError as error:  # what torch raises where a connection breaks, or nothing comes in time
        if not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
            raise
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise LostRankError(f"another rank has ended, or cannot be reached: {reason}") from None
