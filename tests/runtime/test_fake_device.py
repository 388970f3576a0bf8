"""Everything on tensors that say they are on a GPU and hold no numbers: what is made elsewhere is an error.

The backward pass cannot run so, for which PyTorch wants a real device.
"""

import dataclasses

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from transformerlm.config import ModelConfig, OptimizerConfig, TrainingConfig
from transformerlm.data import validation_windows
from transformerlm.evaluation.documents import nats_at, token_nats
from transformerlm.evaluation.loss import total_nats
from transformerlm.infer.sampling import Sampling, sample_rows
from transformerlm.infer.static_decoder import StaticDecoder
from transformerlm.nn import KVCache, NextTokenLoss, TransformerLM, embedding, linear
from transformerlm.optim import clip_grad_norm_, make_optimizer
from transformerlm.runtime import Runtime
from transformerlm.training.dropout import add_dropout
from transformerlm.training.loss_scale import LossScaler
from transformerlm.training.step_guard import StepGuard

MODEL = ModelConfig(vocab_size=61, context_length=16, d_model=16, num_layers=2, num_heads=4, d_ff=24)
MODELS = {
    "plain": {},
    "tied, normed, grouped": {"tie_embeddings": True, "qk_norm": True, "num_kv_heads": 2},
}


@pytest.fixture
def gpu(monkeypatch):
    for part in (embedding, linear):  # weights are drawn until all are in range, which asks for numbers
        monkeypatch.setattr(part, "truncated_normal_", lambda tensor, *numbers, **options: tensor)
    with FakeTensorMode(allow_non_fake_inputs=False):
        yield torch.device("cuda")


def ids(*shape):
    return torch.zeros(shape, dtype=torch.long, device="cuda")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_forward_and_loss(gpu, name, backend, dtype):
    model = TransformerLM(dataclasses.replace(MODEL, **MODELS[name]), backend=backend, device=gpu)
    add_dropout(model, 0.1)
    loss = NextTokenLoss(model)
    for context in (torch.enable_grad(), torch.no_grad()):
        with context:
            assert loss(ids(2, 16), ids(2, 16), 32).device.type == "cuda"
            assert loss(ids(1, 5), ids(1, 5)).device.type == "cuda"


@pytest.mark.parametrize("name", MODELS)
def test_generation(gpu, name):
    model = TransformerLM(dataclasses.replace(MODEL, **MODELS[name]), device=gpu, dtype=torch.bfloat16)
    cache = KVCache.for_model(model.config, 3, gpu, torch.bfloat16)
    sampling = Sampling(temperature=0.8, top_k=9, top_p=0.9, min_p=0.01, repetition_penalty=1.2)
    seen = torch.zeros((3, 61), dtype=torch.bool, device=gpu)
    uniforms = torch.zeros(3, dtype=torch.float32, device=gpu)
    with torch.no_grad():
        decoder = StaticDecoder(model, cache, captures=False)
        decoder.fill([0, 1, 2], [[1, 2, 3], [4], [5, 6]])
        logits = decoder(ids(3))
        new_ids = sample_rows(logits, sampling, uniforms, seen)
    assert (logits.device.type, new_ids.device.type) == ("cuda", "cuda")


def windows_on(device, num_targets):
    """Validation windows; fake tensors have no pinned memory, by way of which they come to CUDA."""
    tokens = np.zeros(num_targets + 1, dtype=np.uint16)
    return [(x.to(device), y.to(device)) for x, y in validation_windows(tokens, 16, 2)]


@pytest.mark.parametrize("name", MODELS)
def test_validation(gpu, name):
    """`evaluate` and the spread over held-out tokens, up to where their numbers come to the host."""
    model = TransformerLM(dataclasses.replace(MODEL, **MODELS[name]), device=gpu).eval()
    runtime = Runtime(gpu, torch.float32)
    with torch.no_grad():
        total, count = total_nats(NextTokenLoss(model), windows_on(gpu, 40), runtime)
        assert (total.device.type, count) == ("cuda", 40)
        for inputs, targets in windows_on(gpu, 40):
            hidden = model.hidden_states(inputs)
            assert token_nats(model, hidden.flatten(0, 1), targets.flatten()).device.type == "cuda"


@pytest.mark.parametrize("name", MODELS)
def test_scores_of_documents(gpu, name):
    model = TransformerLM(dataclasses.replace(MODEL, **MODELS[name]), device=gpu, dtype=torch.bfloat16)
    inputs, places, targets = (torch.zeros(s, dtype=torch.long, device="cpu") for s in ((3, 9), (20, 2), 20))
    with torch.no_grad():
        nats = nats_at(model, inputs, places, targets, Runtime(gpu, torch.float32))
    assert (nats.device.type, *nats.shape) == ("cuda", 20)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizers(gpu, name):
    model = TransformerLM(MODEL, device=gpu)
    optimizer = make_optimizer(model, OptimizerConfig(name=name))
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        norm = clip_grad_norm_(model.parameters(), 1.0)
        scaler, guard = LossScaler(gpu, enabled=True), StepGuard(TrainingConfig(skip_spikes=True), gpu)
        checked = guard.check(norm, norm, scaler.can_fall())
        scaler.update(norm.isfinite())
        optimizer.step(take=checked.verdict == 0)
    devices = {tensor.device.type for state in optimizer.state.values() for tensor in state.values()}
    assert devices == {"cuda"}


def test_a_tensor_of_another_device_is_found(gpu):
    model = TransformerLM(MODEL, device=gpu)
    with pytest.raises(RuntimeError):
        model(torch.zeros((1, 4), dtype=torch.long, device="cpu"))
