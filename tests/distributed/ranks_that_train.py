"""Training on ranks that torchrun starts, or in the test's own process: every case of a list.

    torchrun --nproc-per-node 2 tests/distributed/ranks_that_train.py FOLDER

FOLDER/cases.json: {name: the arguments of run_case}. Of each case and rank FOLDER/NAME.RANK.json tells what
came of it; FOLDER/NAME is the run's folder.
"""

import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from transformerlm.checkpoint.run_directory import RunDirectory, check_same_on_all_ranks
from transformerlm.checkpoint.store import checkpoint_paths, read_checkpoint
from transformerlm.config import RuntimeConfig, TrainConfig
from transformerlm.data import TokenData, TokenFile
from transformerlm.distributed import collectives
from transformerlm.distributed.collectives import (
    AgreedError,
    collective_errors,
    fail_together,
    process_group,
    while_rank_0_works,
)
from transformerlm.distributed.world import World
from transformerlm.errors import ConfigError, TransformerLMError
from transformerlm.logging import CombinedLogger, MetricsFile, NullLogger
from transformerlm.progress import SilentReporter
from transformerlm.runtime import prepare_process
from transformerlm.schema import from_dict
from transformerlm.training import trainer
from transformerlm.training.trainer import Trainer

trainer.measured_flops_ceiling = lambda runtime: 1e12  # takes a quarter of a second, and is of no interest


def main(folder):
    world = World.from_environment()
    torch.set_num_threads(1)
    with process_group(world):
        wait_for_rank_0(world)
        compare_configs(world)
        tables = json.loads((folder / "cases.json").read_text())
        for case in ("plain_none", "plain_full"):
            if case in tables:
                exchange_gradients_once(world, folder, tables[case]["tables"])
        for name, options in json.loads((folder / "cases.json").read_text()).items():
            result = run_case(world, folder, name, **options)
            (folder / f"{name}.{world.rank}.json").write_text(json.dumps(result))


def run_case(
    world,
    folder,
    name,
    tables,
    val="val",
    begun=None,
    no_memory=None,
    signal_at=None,
    killed=None,
    clock=None,
    nan=False,
    lost=None,
):
    """Train as `tables` of the config say.

    begun: another run's folder, seen from FOLDER, of which a copy goes on.
    no_memory: [rank, sequences above which it has none, the first step for which that holds].
    signal_at, killed: [rank, step]. lost: the same, where its loss is no number, once.
    clock: seconds between two looks at rank 0's; those of others run faster.
    """
    run = RunDirectory(folder / name)
    with while_rank_0_works(world):
        if begun and world.is_main:
            shutil.copytree(folder / begun, run.path)
    config, heard = from_dict(TrainConfig, tables), Heard()
    try:
        with fail_together(world):
            check_same_on_all_ranks(world, config, {})
            found = run.resume_point(config.training.resume, heard, world)
            with collective_errors(world):
                now = time.perf_counter if clock is None else ticking(clock * (1 + 10 * world.rank))
                made = Trainer(
                    config, tokens(folder, val), run, prepare_process(config.runtime), heard, now, world
                )
            if found:
                made.restore(found)
            disturb(made, world, folder, no_memory, signal_at, nan, killed)
            lose(made, world, lost)
            status = train(made, world)
    except TransformerLMError as error:
        return {"error": error.lines, "status": error.exit_status, "heard": heard.messages}
    whole = made.whole_model()
    return {
        "status": status,
        "step": made.step,
        "left_out": made.guard.num_left_out,
        "micro_batch_size": made.learner.micro_batches.size,
        "heard": heard.messages,
        "best": made.best.to_plain() if made.best else None,
        "seconds": made.lockstep.clock.elapsed,
        "parameters": sum(getattr(p, "_local_tensor", p).numel() for p in made.model.parameters()),
        "is_whole": all(map(torch.equal, map(torch.as_tensor, whole.parameters()), saved(made)))
        if world.is_main
        else None,
    }


def tokens(folder, val):
    return TokenData(*(TokenFile.open(folder / f"{name}.memmap") for name in ("train", val)))


def saved(made):
    """The newest checkpoint's weights, in the order of the model's."""
    state = read_checkpoint(checkpoint_paths(made.run.checkpoints)[-1]).model_state()
    return [state[name] for name, _ in made.model.named_parameters()]


def train(made, world):
    if not world.is_main:
        return made.train(NullLogger())
    made.run.path.mkdir(parents=True, exist_ok=True)
    with CombinedLogger([MetricsFile(made.run.metrics)]) as logger:
        return made.train(logger)


def disturb(made, world, folder, no_memory, signal_at, nan, killed):
    def before(block, inputs):
        if killed == [world.rank, made.step + 1]:
            (folder / "killed").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        rank, enough, first_step = no_memory or (None, 0, 0)
        if world.rank == rank and len(inputs[0]) > enough and made.step + 1 >= first_step:
            torch.empty(2**60, dtype=torch.uint8)
        if signal_at == [world.rank, made.step + 1]:
            os.kill(os.getpid(), signal.SIGTERM)
            signal_at.clear()

    made.model.blocks[-1].register_forward_pre_hook(before)
    if nan:
        with torch.no_grad():
            made.model.final_norm.weight.mul_(float("nan"))


def lose(made, world, lost):
    sound, left = made.learner.accumulate_gradients, [lost]

    def accumulate_gradients(*arguments, **options):
        loss, norms = sound(*arguments, **options)
        if left[0] == [world.rank, made.step + 1]:
            left[0] = None
            loss = loss * float("nan")
        return loss, norms

    made.learner.accumulate_gradients = accumulate_gradients


def ticking(seconds):
    ticks = itertools.count()
    return lambda: next(ticks) * seconds


class Heard(SilentReporter):
    def __init__(self):
        self.messages = []

    def say(self, message):
        self.messages.append(message)


def wait_for_rank_0(world):
    """However long it works, and whatever becomes of it or of those that wait."""
    collectives._PULSE_SECONDS = 0.02
    with while_rank_0_works(world):
        time.sleep(0.2 * world.is_main)
    for culprit in {0, world.size - 1}:
        with pytest.raises(AgreedError, match="tired"), while_rank_0_works(world):
            time.sleep(0.1)
            if world.rank == culprit:
                raise TransformerLMError("tired")
            time.sleep(0.1 * world.is_main)
    collectives._PULSE_SECONDS = 60


def compare_configs(world):
    """Ranks that were told different things do not begin."""
    runtime = RuntimeConfig(seed=int(world.rank == world.size - 1))
    words = rf"all ranks; rank 0 -> rank {world.size - 1}: \[runtime\].seed: 0 -> 1"
    with pytest.raises(ConfigError, match=words):
        check_same_on_all_ranks(world, TrainConfig(runtime=runtime), {"train data": "a"})
    with pytest.raises(ConfigError, match="rank 1: train data: 0 -> 1"):
        check_same_on_all_ranks(world, TrainConfig(), {"train data": str(world.rank)})


def exchange_gradients_once(world, folder, tables):
    """In a step of several micro-batches as often as in one of one."""
    counts = []
    for size in (8 // world.size, 1):
        config = from_dict(TrainConfig, {**tables, "training": {"batch_size": 8, "micro_batch_size": size}})
        made = Trainer(
            config,
            tokens(folder, "val"),
            RunDirectory(folder / "none"),
            prepare_process(config.runtime),
            Heard(),
            world=world,
        )
        made.learner.prepare()
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            made.take_step()
        operations = [event.name for event in profiled.events() if event.name.startswith("c10d::")]
        counts.append(Counter(name for name in operations if "reduce" in name))
    assert counts[0] == counts[1]
    assert counts[0].total() > 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
