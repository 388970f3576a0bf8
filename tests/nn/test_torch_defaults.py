"""What a host program sets as torch's defaults changes no bit of models, losses and optimizers."""

import contextlib

import pytest
import torch

from transformerlm.config import ModelConfig, OptimizerConfig
from transformerlm.nn import KVCache, NextTokenLoss, TransformerLM, fused
from transformerlm.optim import clip_grad_norm_, make_optimizer

CONFIG = ModelConfig(
    vocab_size=97,
    context_length=48,
    d_model=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    d_ff=80,
    qk_norm=True,
)


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


DEFAULTS = {
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "meta": lambda: torch.device("meta"),
    "deterministic": deterministic_algorithms,
}


def train_and_write(kernels, optimizer_name):
    """Everything that a few steps of training and a few tokens with a cache come to."""
    torch.manual_seed(0)
    loss = NextTokenLoss(TransformerLM(CONFIG))
    if kernels:
        fused.use_kernels_(loss)
    optimizer = make_optimizer(loss.model, OptimizerConfig(name=optimizer_name), kernels=kernels)
    ids = torch.randint(97, (3, 2, 20), dtype=torch.long, device="cpu")
    found = []
    for step in ids:
        value = loss(step[:, :-1], step[:, 1:])
        value.backward()
        found += [value.detach(), clip_grad_norm_(loss.parameters(), 1.0)]
        optimizer.step()
        optimizer.zero_grad()
    found += write(loss.model, ids[0])
    return [*found, *loss.state_dict().values()]


@torch.inference_mode()
def write(model, ids):
    cache = KVCache.for_model(CONFIG, 2)
    found = [model(ids[:, :8], cache)]
    cache.set_lengths([8, 3])
    found.append(model(ids[:, 8:9], cache))
    cache.select([1, 0])
    return [*found, model(ids[:, 9:11], cache)]


@pytest.mark.parametrize(("kernels", "optimizer_name"), [(True, "adamw"), (False, "adamw"), (True, "muon")])
def test_torchs_defaults_change_no_bit(kernels, optimizer_name):
    expected = train_and_write(kernels, optimizer_name)
    for name, default in DEFAULTS.items():
        with default():
            found = train_and_write(kernels, optimizer_name)
        assert all(map(torch.equal, found, expected)), name
