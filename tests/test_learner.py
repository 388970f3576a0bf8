"""What a step does is in test_trainer.py; here is what it does where memory really ends."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from transformerlm.config import ModelConfig, RuntimeConfig, TrainConfig, TrainingConfig
from transformerlm.schema import to_dict

CONFIG = TrainConfig(
    model=ModelConfig(vocab_size=500, context_length=256, d_model=256, num_layers=4, num_heads=4, d_ff=704),
    training=TrainingConfig(batch_size=32, micro_batch_size=32),
    runtime=RuntimeConfig(device="cpu", dtype="float32"),
)

SCRIPT = """
import dataclasses, json, resource, sys
import torch
from transformerlm.config import TrainConfig
from transformerlm.learner import Learner
from transformerlm.memory import training_memory
from transformerlm.progress import SilentReporter
from transformerlm.runtime import Runtime
from transformerlm.schema import from_dict

config, room_for = from_dict(TrainConfig, json.loads(sys.argv[1])), int(sys.argv[2])

class Heard(SilentReporter):
    messages = []
    def say(self, message):
        self.messages.append(message)

def batch(step):
    ids = torch.randint(500, (32, 257), generator=torch.Generator().manual_seed(step))
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

runtime = Runtime.from_config(config.runtime)
one = dataclasses.replace(config, training=dataclasses.replace(config.training, micro_batch_size=1))
Learner(one, runtime, Heard()).learn(*batch(100), 0.0)  # what is loaded and started with the first step is there
torch.manual_seed(0)
learner = Learner(config, runtime, Heard())
if room_for:
    used = 4096 * int(open("/proc/self/statm").read().split()[0])
    limit = used + training_memory(config, runtime, room_for).total
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    losses = [learner.learn(*batch(step), 0.1).loss.item() for step in range(3)]
except Exception as error:
    losses = f"{type(error).__name__}: {error}"
print(json.dumps([losses, learner.micro_batches.size, Heard.messages]))
"""


def train(config, room_for=0):
    """Losses of four steps, the micro-batch at their end, and what was said; with little memory or with all."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(to_dict(config)), str(room_for)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def changed(config, **tables) -> TrainConfig:
    parts = {name: dataclasses.replace(getattr(config, name), **values) for name, values in tables.items()}
    return dataclasses.replace(config, **parts)


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on memory that are kept")
@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_where_memory_ends_a_step_is_begun_anew_in_smaller_parts(dtype, kernels):
    config = changed(CONFIG, runtime={"dtype": dtype, "kernels": kernels})
    losses, size, messages = train(config, room_for=6)
    assert size < 32, messages
    assert len(messages) >= 1
    assert messages[0] == (
        "out of memory: going on with 16 sequences at a time instead of 32; the mathematics is the same"
    )
    # The same as with all memory and that micro-batch from the beginning: not a trace of the failed attempts.
    undisturbed = train(changed(config, training={"micro_batch_size": size}))
    assert undisturbed == [losses, size, []]


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on memory that are kept")
def test_where_not_even_one_sequence_fits_there_is_one_line():
    config = changed(CONFIG, model={"vocab_size": 500, "d_model": 512, "d_ff": 4096, "context_length": 256})
    losses, size, messages = train(changed(config, training={"micro_batch_size": 1, "batch_size": 32}), 0)
    assert len(losses) == 4
