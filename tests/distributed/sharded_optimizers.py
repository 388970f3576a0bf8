"""An optimizer over parameters that are divided over ranks (DTensors), beside one over whole parameters."""

import copy
import math

import torch
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from transformerlm.config import ModelConfig, OptimizerConfig
from transformerlm.nn import TransformerLM
from transformerlm.optim import clip_grad_norm_, make_optimizer

CONFIG = ModelConfig(vocab_size=51, d_model=32, num_heads=4, num_layers=2, d_ff=56, context_length=16)


def difference(name):
    """Return in words in what three steps with the optimizer of this name differ; "" if in nothing."""
    torch.manual_seed(0)
    whole = TransformerLM(CONFIG)
    sharded = copy.deepcopy(whole)
    for module in (*sharded.blocks, sharded):
        fully_shard(module)
    optimizers = [make_optimizer(model, OptimizerConfig(name=name)) for model in (whole, sharded)]
    try:
        for seed in range(3):
            norms = [step(*pair, seed) for pair in zip((whole, sharded), optimizers, strict=True)]
            assert norms[0] > 0.5, "nothing was clipped"
            assert_close(norms[1].full_tensor(), norms[0])
        # Decided on the device: steps that are taken, and one that is not and whose gradients are no numbers.
        for seed, take in ((3, True), (4, False), (5, True)):
            step(sharded, optimizers[1], seed, take=torch.tensor(take), scale=1.0 if take else math.nan)
            if take:
                step(whole, optimizers[0], seed)
        for ours, theirs in zip(sharded.parameters(), whole.parameters(), strict=True):
            assert ours.to_local().numel() < theirs.numel(), "a parameter is not divided"
            assert_close(ours.full_tensor(), theirs)
    except AssertionError as error:
        return str(error)
    optimizers[1].load_state_dict(optimizers[1].state_dict())
    return ""


def step(model, optimizer, seed, take=None, scale=1.0):
    """Learn from one batch; return the norm of the gradient before it was clipped."""
    ids = torch.randint(0, 51, (4, 16), generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    (cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()) * scale).backward()
    norm = clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step(take=take)
    return norm
