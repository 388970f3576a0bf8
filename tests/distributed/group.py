"""A group of ranks that torchrun starts once, for all tests that need one: checks, commands, trainings.

    torchrun --nproc-per-node 2 -m tests.distributed.group FOLDER

FOLDER/work.json: {"commands": {name: [command, its arguments]}, "trainings": {name: the arguments of
ranks_that_train.run_case}, "forked": {name: [port, such arguments]}}. Of each command and rank,
FOLDER/NAME.RANK.status and .output tell what came of it; of each training FOLDER/NAME.RANK.json, and
FOLDER/NAME is the run's folder. {rank} in an argument is the rank's number. What ends a group, or leaves it
where it cannot go on, is forked: the children of the ranks are a group of their own for one training, and
FOLDER/NAME.RANK.ended tells when each had ended.
"""

import contextlib
import importlib
import json
import os
import random
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch

from tests.distributed.divided_checkpoints import check_exchange, check_parts
from tests.distributed.ranks_that_train import compare_configs, count_exchanges_of_gradients, run_case
from tests.distributed.sharded_optimizers import difference
from transformerlm.distributed import collectives
from transformerlm.distributed.collectives import ranks_from_environment
from transformerlm.distributed.ranks import AgreedError
from transformerlm.errors import DataError, TransformerLMError
from transformerlm.training import trainer

for _module in ("torch._dynamo", "torch.distributed.fsdp"):  # once, not in each forked child
    importlib.import_module(_module)

OPTIMIZERS = ("muon", "adamw")
ROOT = Path(__file__).parents[2]


def torchrun(num_ranks, *arguments, where=("--standalone",), cwd=ROOT):
    """Start ranks, with pipes for what they print."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *where,
        "--nproc-per-node",
        num_ranks,
        *arguments,
    ]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(list(map(str, command)), env=environment, cwd=cwd, **options)


def start(folder, num_ranks, trainings, commands=None, forked=None):
    """Have a group do this; what it has printed to stderr, and torchrun's exit status."""
    forked = forked or {}
    ports = dict(zip(forked, free_ports(len(forked)), strict=True))
    work = {"commands": commands or {}, "trainings": trainings}
    work["forked"] = {name: [ports[name], options] for name, options in forked.items()}
    (folder / "work.json").write_text(json.dumps(work))
    process = torchrun(num_ranks, "-m", "tests.distributed.group", folder)
    _, errors = process.communicate(timeout=1200)
    return errors, process.returncode


def free_ports(number):
    """Ports of this machine that nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def main(folder):
    ranks = ranks_from_environment()
    torch.set_num_threads(1)
    trainer.measured_flops_ceiling = lambda runtime, seconds: (
        1e12
    )  # takes a quarter of a second, and is of no interest
    work = json.loads((folder / "work.json").read_text())
    for name, (port, options) in work["forked"].items():  # as long as nothing has been computed
        in_child(ranks, folder, name, port, options)
    with ranks.connected():
        if work["commands"]:
            exchange(ranks)
            agree(ranks)
            wait_for_rank_0(ranks)
            compare_configs(ranks)
            compare_optimizers(ranks, folder)
            check_exchange(ranks)
            check_parts(ranks, folder / "divided")
        for name, (command, arguments) in work["commands"].items():
            run_command(ranks, folder / f"{name}.{ranks.rank}", command, arguments)
        torch.set_num_threads(1)
        for case in ("plain_none", "plain_full"):
            if case in work["trainings"]:
                count_exchanges_of_gradients(ranks, folder, work["trainings"][case]["tables"])
        for name, options in work["trainings"].items():
            work_on_case(ranks, folder, name, options)


def work_on_case(ranks, folder, name, options):
    result = run_case(ranks, folder, name, **options)
    (folder / f"{name}.{ranks.rank}.json").write_text(json.dumps(result))


def in_child(ranks, folder, name, port, options):
    """Have a forked child work on a case, with the children of the other ranks; wait until it has ended."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        (folder / f"{name}.{ranks.rank}.ended").write_text(str(time.time()))
        return
    # Its rank 0 listens itself, not torchrun.
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "0"}
    try:
        with ranks.connected():
            work_on_case(ranks, folder, name, options)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def compare_optimizers(ranks, folder):
    """Write FOLDER/optimizer_NAME.RANK: in what steps over divided parameters differ from others."""
    for name in OPTIMIZERS:
        (folder / f"optimizer_{name}.{ranks.rank}").write_text(difference(name))


def run_command(ranks, path, command, arguments):
    main = importlib.import_module(f"transformerlm.cli.{command}").main
    with (
        Path(f"{path}.output").open("w", buffering=1) as output,
        contextlib.redirect_stderr(output),
        contextlib.redirect_stdout(output),
    ):
        status = main([argument.replace("{rank}", str(ranks.rank)) for argument in arguments])
    Path(f"{path}.status").write_text(str(status))


def exchange(ranks):
    """Bytes of all lengths, and numbers, come to all ranks."""
    for sizes in ([0] * 4, [1, 0, 0, 0], [0, 5, 0, 2], [7, 7, 7, 7], [1, 100_000, 3, 2]):
        items = [random.Random(f"{rank} {sizes}").randbytes(sizes[rank]) for rank in range(ranks.size)]
        assert ranks.all_gather_bytes(items[ranks.rank]) == items
        assert ranks.broadcast_bytes(items[ranks.rank]) == items[0]
        ranks.barrier()
    assert ranks.all_gather_numbers([ranks.rank, 0.1]) == [[rank, 0.1] for rank in range(ranks.size)]


def agree(ranks):
    """An error of one rank is raised by all, wherever in nested blocks the others are."""
    with ranks.collective_errors(), ranks.collective_errors():
        pass
    for error, status, line in ((DataError, 3, "two"), (FileNotFoundError, 74, "error: two")):
        for is_within in (False, True):
            with pytest.raises(AgreedError) as agreed, ranks.collective_errors():
                if ranks.rank == ranks.size - 1:
                    raise error("two")
                with ranks.collective_errors() if is_within else contextlib.nullcontext():
                    pass
            assert (agreed.value.lines, agreed.value.exit_status) == ([line], status)
    ranks.all_gather_bytes(b"still in step")


def wait_for_rank_0(ranks):
    """However long rank 0 works the others wait, and an error of any rank reaches all."""
    collectives.HEARTBEAT_SECONDS = 0.02
    with ranks.while_rank_0_works():
        time.sleep(0.2 * ranks.is_main)
    for culprit in {0, ranks.size - 1}:
        with pytest.raises(AgreedError, match="tired"), ranks.while_rank_0_works():
            time.sleep(0.1)
            if ranks.rank == culprit:
                raise TransformerLMError("tired")
            time.sleep(0.1 * ranks.is_main)
    collectives.HEARTBEAT_SECONDS = 60


if __name__ == "__main__":
    main(Path(sys.argv[1]))
