"""Trainings on ranks of a group (group.py), or in the test's own process, that are disturbed in various
ways."""

import itertools
import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from transformerlm.checkpoint.run_directory import RunDirectory, check_same_on_all_ranks
from transformerlm.checkpoint.store import checkpoint_paths, read_checkpoint
from transformerlm.config import RuntimeConfig, TrainConfig
from transformerlm.data import TokenData, TokenFile, TokenGroup, TokenWriter
from transformerlm.distributed import exchange
from transformerlm.errors import ConfigError, TransformerLMError
from transformerlm.logging import CombinedLogger, MetricsFile, NullLogger
from transformerlm.progress import SilentReporter
from transformerlm.runtime import Runtime
from transformerlm.schema import from_dict
from transformerlm.training.trainer import Trainer


def write_tokens(folder):
    generator = np.random.default_rng(0)
    # As many whole windows as four ranks cannot share equally, and some tokens more; and fewer than they are.
    for name, size in (("train", 1000), ("val", 9 * 16 + 8), ("short", 2 * 16 + 4)):
        with TokenWriter.create(folder / f"{name}.memmap", vocab_size=66, fingerprint="f") as writer:
            ids = np.cumsum(generator.integers(1, 3, size)) % 66
            writer.write(ids.astype(np.uint16), num_documents=1, num_bytes=2 * size)


def run_case(
    ranks,
    folder,
    name,
    tables,
    val="val",
    begun=None,
    no_memory=None,
    signal_at=None,
    killed=None,
    killed_saving=None,
    clock=None,
    nan=False,
    lost=None,
):
    """Train as `tables` of the config say.

    begun: another run's folder, seen from FOLDER, of which a copy goes on.
    no_memory: [rank, sequences above which it has none, the first step for which that holds].
    signal_at, killed, killed_saving: [rank, step]. lost: the same, where its loss is no number, once.
    clock: seconds between two looks at rank 0's; those of others run faster.
    """
    run = RunDirectory(folder / name)
    with ranks.while_rank_0_works():
        if begun and ranks.is_main:
            shutil.copytree(folder / begun, run.path)
    config, heard = from_dict(TrainConfig, tables), Heard()
    try:
        with ranks.fail_together():
            check_same_on_all_ranks(ranks, config, {})
            found = run.resume_point(config.training.resume, heard, ranks)
            with ranks.collective_errors():
                now = time.perf_counter if clock is None else ticking(clock * (1 + 10 * ranks.rank))
                made = make(config, tokens(folder, val), run, heard, now, ranks)
            if found:
                made.restore(found)
            disturb(made, ranks, no_memory, signal_at, nan, killed)
            lose(made, ranks, lost)
            die_saving(made, ranks, killed_saving)
            status = train(made, ranks)
    except TransformerLMError as error:
        return {"error": error.lines, "status": error.exit_status, "heard": heard.messages}
    whole = made.learner.whole_model()
    return {
        "status": status,
        "step": made.step,
        "left_out": made.step_guard.num_left_out,
        "micro_batch_size": made.learner.micro_batches.size,
        "heard": heard.messages,
        "best": made.best.to_plain() if made.best else None,
        "seconds": made.rank_sync.clock.elapsed,
        "parameters": sum(getattr(p, "_local_tensor", p).numel() for p in made.model.parameters()),
        "is_whole": all(map(torch.equal, map(torch.as_tensor, whole.parameters()), saved(made)))
        if ranks.is_main
        else None,
    }


def make(config, data, run, heard, now, ranks):
    torch.manual_seed(config.runtime.seed)
    return Trainer(config, data, run, Runtime.from_config(config.runtime), heard, now, ranks)


def tokens(folder, val):
    if val == "mixed":  # of two corpora, one of them with fewer windows than four ranks
        files = {name: TokenFile.open(folder / f"{name}.memmap") for name in ("train", "val", "short")}
        train = TokenGroup({"long": files["train"], "short": files["short"]})
        held_out = TokenGroup({"long": files["val"], "short": files["short"]})
        return TokenData(train, held_out, {"long": 0.7, "short": 0.3})
    return TokenData(*(TokenFile.open(folder / f"{name}.memmap") for name in ("train", val)))


def saved(made):
    """The newest checkpoint's weights, in the order of the model's."""
    state = read_checkpoint(checkpoint_paths(made.run.checkpoints)[-1]).model_state()
    return [state[name] for name, _ in made.model.named_parameters()]


def train(made, ranks):
    if not ranks.is_main:
        return made.train(NullLogger())
    made.run.path.mkdir(parents=True, exist_ok=True)
    with CombinedLogger([MetricsFile(made.run.metrics)]) as logger:
        return made.train(logger)


def disturb(made, ranks, no_memory, signal_at, nan, killed):
    def before(block, inputs):
        if killed == [ranks.rank, made.step + 1]:
            kill_this_one(made)
        rank, enough, first_step = no_memory or (None, 0, 0)
        if ranks.rank == rank and len(inputs[0]) > enough and made.step + 1 >= first_step:
            torch.empty(2**60, dtype=torch.uint8)
        if signal_at == [ranks.rank, made.step + 1]:
            os.kill(os.getpid(), signal.SIGTERM)
            signal_at.clear()

    made.model.blocks[-1].register_forward_pre_hook(before)
    if nan:
        with torch.no_grad():
            made.model.final_norm.weight.mul_(float("nan"))


def die_saving(made, ranks, killed_saving):
    """End the process in the middle of writing its part of a checkpoint."""
    sound = exchange._received

    def received(wanted, ranks):
        whole = sound(wanted, ranks)
        if killed_saving == [ranks.rank, made.step]:
            kill_this_one(made)
        return whole

    if killed_saving:
        exchange._received = received


def kill_this_one(made):
    """End the process, having written when into NAME.killed."""
    Path(f"{made.run.path}.killed").write_text(str(time.time()))
    os.kill(os.getpid(), signal.SIGKILL)


def lose(made, ranks, lost):
    sound, left = made.learner.accumulate_gradients, [lost]

    def accumulate_gradients(*arguments, **options):
        loss, norms = sound(*arguments, **options)
        if left[0] == [ranks.rank, made.step + 1]:
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


def compare_configs(ranks):
    """Refuse ranks that were given different configs."""
    runtime = RuntimeConfig(seed=int(ranks.rank == ranks.size - 1))
    words = rf"all ranks; rank 0 -> rank {ranks.size - 1}: \[runtime\].seed: 0 -> 1"
    with pytest.raises(ConfigError, match=words):
        check_same_on_all_ranks(ranks, TrainConfig(runtime=runtime), {"train data": "a"})
    with pytest.raises(ConfigError, match="rank 1: train data: 0 -> 1"):
        check_same_on_all_ranks(ranks, TrainConfig(), {"train data": str(ranks.rank)})


def count_exchanges_of_gradients(ranks, folder, tables):
    """Compare a step of several micro-batches with one of one: copies exchange gradients as often, and
    divided ones in every micro-batch."""
    counts = []
    for size in (8 // ranks.size, 1):
        config = from_dict(TrainConfig, {**tables, "training": {"batch_size": 8, "micro_batch_size": size}})
        data, run = tokens(folder, "val"), RunDirectory(folder / "none")
        made = make(config, data, run, Heard(), time.perf_counter, ranks)
        made.learner.prepare()
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            made.take_step()
        operations = [event.name for event in profiled.events() if event.name.startswith("c10d::")]
        counts.append(Counter(name for name in operations if "reduce" in name))
    assert counts[0].total() > 1
    divided = [sum(n for name, n in count.items() if "scatter" in name) for count in counts]
    assert divided[1] == divided[0] * 8 // ranks.size
    assert bool(divided[0]) == (tables["runtime"]["sharding"] == "full")
    assert counts[0].total() - divided[0] == counts[1].total() - divided[1]
