"""The optimizers know nothing of ranks: parameters divided over two of them (DTensors) just work."""

import os
import socket
import subprocess
import sys

import pytest

SCRIPT = """
import copy, os, sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from transformerlm.config import ModelConfig, OptimizerConfig
from transformerlm.nn import TransformerLM
from transformerlm.optim import clip_grad_norm_, make_optimizer

dist.init_process_group("gloo")
torch.manual_seed(0)
config = ModelConfig(vocab_size=51, d_model=32, num_heads=4, num_layers=2, d_ff=56, context_length=16)
whole = TransformerLM(config)
sharded = copy.deepcopy(whole)
for module in (*sharded.blocks, sharded):
    fully_shard(module)
models = (whole, sharded)
optimizers = [make_optimizer(model, OptimizerConfig(name=sys.argv[1])) for model in models]
for step in range(3):
    ids = torch.randint(0, 51, (4, 16), generator=torch.Generator().manual_seed(step))
    norms = []
    for model, optimizer in zip(models, optimizers, strict=True):
        optimizer.zero_grad()
        cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        norms.append(clip_grad_norm_(model.parameters(), 0.5))
        optimizer.step()
    assert norms[0] > 0.5
    assert_close(norms[1].full_tensor(), norms[0])
for ours, theirs in zip(sharded.parameters(), whole.parameters(), strict=True):
    assert ours.to_local().numel() < theirs.numel()
    assert_close(ours.full_tensor(), theirs)
optimizers[1].load_state_dict(optimizers[1].state_dict())
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["muon", pytest.param("adamw", marks=pytest.mark.endurance)])
def test_two_ranks_step_as_one(name):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, name],
            env={**shared, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], errors
