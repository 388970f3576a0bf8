"""What a step does is in test_trainer.py; here is where it goes on from, and where memory really ends."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest
import torch

from transformerlm.config import ModelConfig, RuntimeConfig, TrainConfig, TrainingConfig
from transformerlm.errors import TransformerLMError
from transformerlm.progress import SilentReporter
from transformerlm.runtime import Runtime, prepare_process
from transformerlm.schema import to_dict
from transformerlm.training.learner import Learner
from transformerlm.training.memory import training_memory

CONFIG = TrainConfig(
    model=ModelConfig(vocab_size=500, context_length=128, d_model=256, num_layers=4, num_heads=4, d_ff=704),
    training=TrainingConfig(batch_size=16, micro_batch_size=16),
    runtime=RuntimeConfig(device="cpu", dtype="float32"),
)

SCRIPT = """
import dataclasses, json, resource, sys
import torch
from transformerlm.config import TrainConfig
from transformerlm.training.learner import Learner
from transformerlm.progress import SilentReporter
from transformerlm import runtime
from transformerlm.runtime import Runtime, prepare_process
from transformerlm.schema import from_dict

# What is free is to go back at once: the limit counts it as long as it is kept, in pieces of whatever sizes.
runtime.keep_freed_memory = lambda: None
config, room = from_dict(TrainConfig, json.loads(sys.argv[1])), int(sys.argv[2])

class Heard(SilentReporter):
    messages = []
    def say(self, message):
        self.messages.append(message)

def batch(step):
    ids = torch.randint(500, (16, 129), generator=torch.Generator().manual_seed(step))
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

def num_bytes():
    return resource.getpagesize() * int(open("/proc/self/statm").read().split()[0])

def two_steps(config, sizes=(None, None)):
    torch.manual_seed(0)
    learner = Learner(config, prepare_process(config.runtime), Heard())
    if room and sizes == (None, None):
        ballast, taken = [], num_bytes()
        while num_bytes() == taken:  # what the heap has free is no room
            ballast.append(bytearray(2**16))
        limit = room + num_bytes()
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    for step, size in enumerate(sizes):
        learner.micro_batches.restrict(size)
        loss = learner.learn(*batch(step), 0.1).loss.item()
        yield loss, learner.micro_batches.size

# What is loaded and started only once is there before memory becomes scarce; and what this takes stays taken.
training = dataclasses.replace(config.training, micro_batch_size=1)
before = dataclasses.replace(config, training=training)
before = Learner(before, prepare_process(config.runtime), Heard())
before.learn(*batch(100), 0.0)
try:
    steps = list(two_steps(config))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    again = list(two_steps(config, [size for _, size in steps]))
except Exception as error:
    steps = again = f"{type(error).__name__}: {error}"
print(json.dumps([steps, again, Heard.messages]))
"""


def train(config, room):
    """Loss and micro-batch of two steps where memory is scarce (or an error); the same where it is not, with
    those micro-batches from the beginning; and what was said.

    `room` is how many bytes the process may take beyond what it has once its model is there.
    """
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(to_dict(config)), str(room)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_going_on_takes_its_numbers_from_the_config_of_today(name):
    def learner(**changes):
        config = changed(CONFIG, optimizer={"name": name} | changes, runtime={"kernels": False})
        return Learner(config, prepare_process(config.runtime), SilentReporter())

    before = learner()
    before.learn(*torch.randint(500, (2, 8, 128)), 1.0)
    numbers = {"betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.3, "lr": 0.5, "muon_momentum": 0.5}
    fresh, again = learner(**numbers), learner(**numbers)
    again.load(before.model_state(), before.state(), "here")
    assert again.optimizer.state_dict()["param_groups"] == fresh.optimizer.state_dict()["param_groups"]
    saved, loaded = before.optimizer.state_dict()["state"], again.optimizer.state_dict()["state"]
    torch.testing.assert_close(loaded, saved, rtol=0, atol=0)


def changed(config, **tables) -> TrainConfig:
    parts = {name: dataclasses.replace(getattr(config, name), **values) for name, values in tables.items()}
    return dataclasses.replace(config, **parts)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on memory that are kept")
@pytest.mark.parametrize("kernels", [False, pytest.param(True, marks=pytest.mark.endurance)])
def test_where_memory_ends_a_step_is_begun_anew_in_smaller_parts(kernels):
    # Not in bfloat16: oneDNN keeps memory for every size that was tried, takes another way (other bits) where
    # it finds none for itself, and now and then ends the process.
    config = changed(CONFIG, runtime={"kernels": kernels})
    runtime = Runtime(torch.device("cpu"), torch.float32, kernels)
    scarce, plenty, messages = train(config, room=training_memory(config, runtime, 6).total)
    sizes = [size for _, size in scarce]
    assert 16 > sizes[0] >= sizes[1]
    line = "out of memory: going on with {} sequences at a time instead of {}; the mathematics is the same"
    assert messages == [line.format(size, 2 * size) for size in (8, 4, 2, 1) if size >= sizes[1]]
    assert scarce == plenty  # not a trace of the failed attempts


@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on memory that are kept")
def test_where_smaller_parts_do_not_help_there_is_one_line():
    config = changed(CONFIG, runtime={"kernels": False}, training={"micro_batch_size": 2})
    error, _, messages = train(config, room=2**20)
    assert re.match(
        "TransformerLMError: out of memory (with one sequence at a time|for the optimizer): take a smaller"
        ".*can't allocate memory: you tried to allocate",
        error,
    )
    assert len(messages) == 1


def test_a_model_that_finds_no_memory_is_one_line_with_what_would_fit():
    model = {"d_model": 2**20, "num_heads": 2**15, "num_layers": 1, "d_ff": 32, "vocab_size": 8}
    config = changed(CONFIG, model=model, runtime={"kernels": False})
    with pytest.raises(TransformerLMError, match=r"out of memory for a model of 4,398.* fit into") as caught:
        Learner(config, prepare_process(config.runtime), SilentReporter())
    assert len(caught.value.lines) == 1
