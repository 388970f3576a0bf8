import dataclasses
import gc
import math
import os

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from transformerlm.checkpoint.store import write_checkpoint
from transformerlm.config import (
    ModelConfig,
    RuntimeConfig,
    TrainConfig,
    TrainingConfig,
)
from transformerlm.distributed.ranks import SINGLE_PROCESS, Ranks
from transformerlm.distributed.world import World
from transformerlm.nn import TransformerLM
from transformerlm.nn.accounting import checkpoint_bytes
from transformerlm.progress import SilentReporter
from transformerlm.runtime import Runtime
from transformerlm.training.learner import Learner
from transformerlm.training.memory import (
    USABLE_FRACTION,
    device_memory,
    largest_that_fits,
    micro_batch_size,
    training_memory,
)

CONFIG = TrainConfig(
    model=ModelConfig(vocab_size=2000, context_length=128, d_model=128, num_layers=4, num_heads=4, d_ff=352),
    training=TrainingConfig(batch_size=16, micro_batch_size=8),
    runtime=RuntimeConfig(device="cpu", dtype="float32"),
)


def changed(config: TrainConfig, **tables) -> TrainConfig:
    parts = {name: dataclasses.replace(getattr(config, name), **values) for name, values in tables.items()}
    return dataclasses.replace(config, **parts)


def learner_of(config) -> Learner:
    return Learner(config, Runtime.from_config(config.runtime), SilentReporter())


def learn(learner: Learner) -> None:
    training, model = learner.config.training, learner.config.model
    ids = torch.randint(model.vocab_size, (training.batch_size, model.context_length))
    learner.learn(ids, ids, lr_factor=1.0)


def peak_bytes(config) -> int:
    """The most that all tensors together took in the course of two steps, by torch's own account."""
    learn(learner_of(config))  # what is made once, such as tables, is not a step's
    gc.collect()  # what an earlier profile saw made and this one sees freed would be less than nothing
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        learner = learner_of(config)
        learn(learner)
        learn(learner)
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize(
    ("dtype", "checkpointing"),
    # Without instructions for it, bfloat16 takes a minute.
    [("float32", False), pytest.param("bfloat16", True, marks=pytest.mark.endurance)],
)
def test_the_estimate_is_what_a_step_takes(checkpointing, dtype, kernels):
    runtime = {"dtype": dtype, "kernels": kernels, "activation_checkpointing": checkpointing}
    config = changed(CONFIG, runtime=runtime)
    estimate = training_memory(config, Runtime.from_config(config.runtime), 8)
    peak = peak_bytes(config)
    assert 0.95 * peak <= estimate.total <= 1.125 * peak


@pytest.mark.parametrize(("name", "tied"), [("adamw", True), ("muon", False)])
def test_weights_gradients_optimizer_and_checkpoint_are_what_they_are(name, tied, tmp_path):
    config = changed(CONFIG, model={"tie_embeddings": tied, "qk_norm": True}, optimizer={"name": name})
    learner = learner_of(config)
    estimate = training_memory(config, learner.runtime, 8)
    assert estimate.weights == sum(p.nbytes for p in learner.model.parameters())
    ids = torch.randint(2000, (8, 128))
    learner.accumulate_gradients(ids, ids, 8)
    assert estimate.gradients == sum(p.grad.nbytes for p in learner.model.parameters())
    grad_norm, _ = learner.clip_gradients()
    learner.step_optimizer(torch.zeros(()), grad_norm, None)
    state = [
        v for s in learner.optimizer.state.values() for v in s.values() if torch.is_tensor(v) and v.dim()
    ]
    assert estimate.optimizer == sum(tensor.nbytes for tensor in state)
    written = write_checkpoint(tmp_path, 1, learner.model.state_dict(), learner.state(), {})
    size = sum(path.stat().st_size for path in written.path.iterdir())
    assert 0 < size - checkpoint_bytes(config.model, name) < 100_000


def test_memory_decides_the_micro_batch():
    config = changed(CONFIG, training={"batch_size": 12, "micro_batch_size": "auto"})
    runtime = Runtime.from_config(config.runtime)
    for size in (1, 2, 3, 4, 6, 12):
        enough = math.ceil(training_memory(config, runtime, size).total / USABLE_FRACTION)
        assert largest_that_fits(config, runtime, 12, enough) == size
        smaller = largest_that_fits(config, runtime, 12, enough - 2)
        assert smaller < size or size == 1
    assert largest_that_fits(config, runtime, 12, 1000) == 1
    assert largest_that_fits(config, runtime, 12, None) == 12


def test_on_a_cpu_more_would_save_no_time():
    config = changed(CONFIG, model={"context_length": 1000}, training={"batch_size": 32})
    runtime = Runtime.from_config(config.runtime)
    assert largest_that_fits(config, runtime, 32, None) == 8
    assert largest_that_fits(config, runtime, 31, None) == 1
    elsewhere = Runtime(torch.device("cuda"), torch.bfloat16)
    assert largest_that_fits(config, elsewhere, 32, None) == 32


def test_a_number_is_taken_as_it_is():
    config = changed(CONFIG, training={"batch_size": 64, "micro_batch_size": 64})
    assert micro_batch_size(config, Runtime.from_config(config.runtime), 64) == 64


def test_activation_checkpointing_lets_more_fit():
    memory = 10**9
    plain = changed(CONFIG, model={"num_layers": 24})
    checkpointed = changed(plain, runtime={"activation_checkpointing": True})
    runtime = Runtime(torch.device("cuda"), torch.bfloat16)
    sizes = [largest_that_fits(config, runtime, 1024, memory) for config in (plain, checkpointed)]
    assert sizes[1] >= 4 * sizes[0] > 4


def test_each_of_several_ranks_has_its_part():
    copies = changed(CONFIG, training={"micro_batch_size": "auto"})
    parts = changed(copies, runtime={"sharding": "full"})
    runtime, four = Runtime.from_config(CONFIG.runtime), Ranks(World(0, 4, 0, 2))
    alone, copy = (training_memory(copies, runtime, 4, ranks) for ranks in (SINGLE_PROCESS, four))
    assert copy == alone
    assert training_memory(parts, runtime, 4) == alone
    part = training_memory(parts, runtime, 4, four)  # the four of each rank at a time
    model = TransformerLM(CONFIG.model)
    blocks = [sum(p.nbytes for p in block.parameters() if p.dim() > 1) for block in model.blocks]
    outside = alone.weights - sum(blocks)
    assert part.optimizer == alone.optimizer // 4
    assert part.weights == alone.weights // 4 + outside + 2 * blocks[0]
    assert part.gradients == alone.weights // 4 + outside + blocks[0]
    assert (
        training_memory(parts, runtime, 2, four).gradients == part.gradients
    )  # divided in every micro-batch
    assert device_memory(runtime.device, four) == device_memory(runtime.device) // 2


def test_the_memory_of_this_machine_is_known_and_stays_the_same():
    memory = device_memory(torch.device("cpu"))
    assert memory > 2**28
    assert memory % os.sysconf("SC_PAGE_SIZE") == 0
    taken = bytearray(2**27)
    assert device_memory(torch.device("cpu")) == memory, len(taken)
