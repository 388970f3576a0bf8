"""What torchrun starts for the tests: every case of a list, on ranks that stay connected in between.

    torchrun --nproc-per-node 2 tests/distributed/ranks_at_work.py FOLDER

FOLDER/cases.json: {name: the arguments of run_case}. Of each case and rank the exit status is left in
FOLDER/NAME.RANK.status, and what was printed in FOLDER/NAME.RANK.output; the last status is this script's
own. In a command's arguments {rank} stands for the rank's number.
"""

import contextlib
import functools
import importlib
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from transformerlm.data import build, prepare
from transformerlm.distributed import collectives
from transformerlm.distributed.collectives import (
    AgreedError,
    all_gather_bytes,
    barrier,
    broadcast_bytes,
    collective_errors,
    gathered,
    heartbeat,
    process_group,
)
from transformerlm.distributed.world import World
from transformerlm.errors import DataError


def main(folder):
    world = World.from_environment()
    build.WORKER_BYTES = 1
    with process_group(world):
        exchange_bytes(world)
        agree(world)
        for name, case in json.loads((folder / "cases.json").read_text()).items():
            status = run_case(world, folder / f"{name}.{world.rank}", **case)
    return status


def run_case(world, path, command, arguments, kernels, piece_bytes, killed_at=None, seconds=0):
    os.environ["TRANSFORMERLM_KERNELS"] = kernels
    prepare.corpus_items = functools.partial(build.corpus_items, piece_bytes=piece_bytes)
    prepare.Build = functools.partial(build.Build, piece_bytes=piece_bytes)
    if killed_at is not None and world.rank == world.size - 1:
        build.encode_item = functools.partial(killed_after, build.encode_item, path, os.getpid(), [killed_at])
    if seconds:
        build.encode_item = functools.partial(slowly, build.encode_item, seconds)
    main = importlib.import_module(f"transformerlm.cli.{command}").main
    arguments = [argument.replace("{rank}", str(world.rank)) for argument in arguments]
    with (
        Path(f"{path}.output").open("w", buffering=1) as output,
        contextlib.redirect_stderr(output),
        contextlib.redirect_stdout(output),
    ):
        status = main(arguments)
    Path(f"{path}.status").write_text(str(status))
    return status


def slowly(function, seconds, *arguments):
    time.sleep(seconds)
    return function(*arguments)


def killed_after(function, path, process_id, left, *arguments):
    """`function`, but the rank is killed after some calls."""
    left[0] -= 1
    if left[0] < 0:
        # Workers are threads or processes, and each may kill: no other may truncate what one has written.
        written = Path(f"{path}.{os.getpid()}.{threading.get_ident()}")
        written.write_text(str(time.time()))
        written.replace(f"{path}.killed")
        os.kill(process_id, signal.SIGKILL)
    return function(*arguments)


def exchange_bytes(world):
    for sizes in ([0] * 4, [1, 0, 0, 0], [0, 5, 0, 2], [7, 7, 7, 7], [1, 100_000, 3, 2]):
        items = [random.Random(f"{rank} {sizes}").randbytes(sizes[rank]) for rank in range(world.size)]
        assert all_gather_bytes(world, items[world.rank]) == items
        assert broadcast_bytes(world, items[world.rank]) == items[0]
        barrier(world)
    # A rank has rank + 1 items; the last rank has most.
    own = (f"{number} of {world.rank}".encode() for number in range(world.rank + 1))
    numbers = [(number, rank) for number in range(world.size) for rank in range(number, world.size)]
    expected = [f"{number} of {rank}".encode() for number, rank in numbers]
    assert list(gathered(world, own)) == (expected if world.is_main else [])


def agree(world):
    with collective_errors(world), collective_errors(world):
        pass
    for error, status, line in ((DataError, 3, "two"), (FileNotFoundError, 74, "error: two")):
        # The last rank fails in a block that the others leave, or that they wait in further within.
        for is_within in (False, True):
            with pytest.raises(AgreedError) as agreed, collective_errors(world):
                if world.rank == world.size - 1:
                    raise error("two")
                with collective_errors(world) if is_within else contextlib.nullcontext():
                    pass
            assert (agreed.value.lines, agreed.value.exit_status) == ([line], status)
    busy_at_work(world)
    all_gather_bytes(world, b"still in step")


def busy_at_work(world):
    """Pulses of a busy rank reach those that wait, and so does its error."""
    collectives._PULSE_SECONDS = 0
    with collective_errors(world):
        if world.is_main:
            beat = heartbeat(world)
            for _ in range(3):
                beat()
    with contextlib.suppress(AgreedError), collective_errors(world):
        if world.is_main:
            heartbeat(world)()
            raise DataError("tired")
        agreed = "not yet"
    with contextlib.suppress(AgreedError), collective_errors(world):
        agreed = "all are well"
        if world.rank == world.size - 1:
            raise DataError("ill")
        if world.is_main:
            heartbeat(world)()
            agreed = "rank 0 has not heard of it"
    assert agreed == "all are well"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
