"""Communication of several ranks, which torchrun starts on one machine or many, by torch.distributed.

Only this module, exchange.py and sharding.py import torch.distributed. torch is imported when ranks are
connected, so that a single process does not wait for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from transformerlm.distributed.ranks import SINGLE_PROCESS, AgreedError, Backend, LostRankError, Ranks
from transformerlm.distributed.world import World
from transformerlm.errors import ConfigError, OutputError, TransformerLMError
from transformerlm.storage.files import system_error

TIMEOUT = timedelta(minutes=10)
"""Longest time that a rank waits for another. A process that ends breaks its connections, which the others
notice at once; the timeout is for a machine that loses power or network. Longer work of rank 0 belongs in
`while_rank_0_works`."""
HEARTBEAT_SECONDS = 60.0
"""Interval between two messages of a rank that works while others wait."""

_BUSY = b"busy"
_ERROR_KEY = "transformerlm: error"


def ranks_from_environment() -> Ranks:
    """Return the ranks that torchrun's environment variables describe; without these, a single process.

    Raises:
        ConfigError: some variables are set and others not, or their values do not fit each other.
    """
    world = World.from_environment()
    return ConnectedRanks(world) if world.size > 1 else SINGLE_PROCESS


class ConnectedRanks(Ranks):
    """One of several ranks. `Ranks` documents the methods."""

    @contextlib.contextmanager
    def connected(self, backend: Backend = "gloo") -> Iterator[None]:  # noqa: D102
        import torch
        import torch.distributed as dist

        with contextlib.ExitStack() as stack:
            if not dist.is_initialized():
                if missing := {"MASTER_ADDR", "MASTER_PORT"} - os.environ.keys():
                    names = " and ".join(sorted(missing))
                    raise ConfigError(f"environment: expected {names}, as torchrun sets them")
                has_gpus = backend == "nccl" and torch.cuda.is_available()
                with _broken_connections_as_lost_ranks():
                    backends = "cpu:gloo,cuda:nccl" if has_gpus else "gloo"
                    dist.init_process_group(backends, timeout=TIMEOUT, world_size=self.size, rank=self.rank)
                stack.push(_disconnect_gpus if has_gpus else _disconnect)
                # Gloo's threads release a tensor a moment after its exchange. A thread that does so while
                # Python is shutting down aborts the process.
                stack.callback(time.sleep, 0.1)
            yield

    @contextlib.contextmanager
    def collective_errors(self) -> Iterator[None]:  # noqa: D102
        try:
            yield
        except (AgreedError, LostRankError):
            raise
        except (TransformerLMError, OSError) as error:
            self._exchange_status(_dumped(error))
        else:
            while self._exchange_status(b""):
                pass

    @contextlib.contextmanager
    def while_rank_0_works(self) -> Iterator[None]:  # noqa: D102
        with self.collective_errors(), self._heartbeats() if self.is_main else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def fail_together(self) -> Iterator[None]:  # noqa: D102
        try:
            with _broken_connections_as_lost_ranks():
                yield
        except AgreedError:
            raise
        except LostRankError:
            if stored := _stored_error():
                raise AgreedError(*json.loads(stored)) from None
            raise
        except (TransformerLMError, OSError) as error:
            _store_error(_dumped(error))
            raise

    def all_gather_bytes(self, data: bytes) -> list[bytes]:  # noqa: D102
        sizes = self._sizes(len(data))
        if not any(sizes):
            return [b""] * self.size
        import torch
        import torch.distributed as dist

        own = torch.frombuffer(bytearray(data.ljust(max(sizes))), dtype=torch.uint8)
        parts = [torch.empty_like(own) for _ in sizes]
        with _broken_connections_as_lost_ranks():
            dist.all_gather(parts, own)
        return [part.numpy()[:size].tobytes() for part, size in zip(parts, sizes, strict=True)]

    def all_gather_numbers(self, numbers: Sequence[float]) -> list[list[float]]:  # noqa: D102
        import torch
        import torch.distributed as dist

        own = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        found = [torch.empty_like(own) for _ in range(self.size)]
        with _broken_connections_as_lost_ranks():
            dist.all_gather(found, own)
        return [row.tolist() for row in found]

    def broadcast_bytes(self, data: bytes) -> bytes:  # noqa: D102
        size = self._sizes(len(data))[0]
        if not size:
            return b""
        import torch
        import torch.distributed as dist

        tensor = torch.frombuffer(bytearray(data if self.is_main else size), dtype=torch.uint8)
        with _broken_connections_as_lost_ranks():
            dist.broadcast(tensor, 0)
        return tensor.numpy().tobytes()

    def barrier(self) -> None:  # noqa: D102
        self.all_gather_numbers([0])

    def leave(self) -> None:  # noqa: D102
        with contextlib.suppress(LostRankError):
            if not _stored_error():
                self.barrier()

    def _sizes(self, size: int) -> list[int]:
        return [int(number) for (number,) in self.all_gather_numbers([size])]

    def _exchange_status(self, message: bytes) -> bool:
        """Exchange statuses: done (b""), busy, or an error, which all ranks raise; return True if one is
        busy."""
        messages = self.all_gather_bytes(message)
        for answer in messages:
            if answer not in (b"", _BUSY):
                raise AgreedError(*json.loads(answer))
        return _BUSY in messages

    @contextlib.contextmanager
    def _heartbeats(self) -> Iterator[None]:
        """Send the busy status at intervals, from another thread, so that waiting ranks do not time out."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT_SECONDS):
                self._exchange_status(_BUSY)

        with ThreadPoolExecutor(1) as thread:
            beating = thread.submit(beat)
            try:
                yield
            finally:
                done.set()
                beating.result()  # if that raised an error, the other ranks have left the block already


def _disconnect(kind: type[BaseException] | None, *_: object) -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def _disconnect_gpus(kind: type[BaseException] | None, *_: object) -> None:
    """Disconnect ranks with NCCL: after an error, without waiting for exchanges that others do not join."""
    import torch.distributed as dist

    if kind is not None:
        with contextlib.suppress(RuntimeError):
            dist.distributed_c10d._abort_process_group()
    _disconnect(kind)


def _dumped(error: TransformerLMError | OSError) -> bytes:
    """Return as JSON the arguments of the AgreedError that other ranks raise for this error."""
    if isinstance(error, TransformerLMError):
        return json.dumps([error.problems, error.exit_status]).encode()
    return json.dumps([[((), system_error(error), "")], OutputError.exit_status]).encode()


def _store_error(dumped: bytes) -> None:
    """Write this rank's error to the store that all ranks can read."""
    import torch.distributed as dist

    with contextlib.suppress(RuntimeError):  # the process that keeps the store may be gone
        dist.distributed_c10d._get_default_store().set(_ERROR_KEY, dumped.decode())


def _stored_error() -> bytes:
    """Return the error that a rank has written to the store; b"" if there is none."""
    import torch.distributed as dist

    with contextlib.suppress(RuntimeError):  # the process that keeps the store may be gone
        store = dist.distributed_c10d._get_default_store()
        if store.check([_ERROR_KEY]):
            return bytes(store.get(_ERROR_KEY))
    return b""


@contextlib.contextmanager
def _broken_connections_as_lost_ranks() -> Iterator[None]:
    import torch.distributed as dist

    try:
        yield
    except RuntimeError as error:  # raised by torch when a connection breaks or times out
        if not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
            raise
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise LostRankError(f"another rank has ended, or cannot be reached: {reason}") from None
