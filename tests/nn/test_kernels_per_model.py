"""Kernels are a choice per model: models in other threads, with and without them, do not touch each other."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from transformerlm.config import ModelConfig
from transformerlm.nn import NextTokenLoss, TransformerLM, fused
from transformerlm.optim import AdamW, parameter_groups

CONFIG = ModelConfig(vocab_size=97, context_length=48, d_model=48, num_layers=2, num_heads=4, d_ff=120)
STEPS = 12


def make_loss(kernels):
    loss = NextTokenLoss(TransformerLM(CONFIG))
    if kernels:
        fused.use_kernels_(loss)
    return loss


def test_a_model_without_kernels_that_computes_in_between_changes_nothing():
    torch.manual_seed(0)
    inner, outer, ids = make_loss(False), make_loss(True), torch.randint(97, (2, 2, 40))
    expected_inner, expected_outer = inner(*ids), outer(*ids)
    found = []

    def in_between(*_):
        thread = threading.Thread(target=lambda: found.append(inner(*ids)))
        thread.start()
        thread.join()

    for block in outer.model.blocks:
        block.register_forward_hook(in_between)
    assert torch.equal(outer(*ids), expected_outer)
    assert all(torch.equal(loss, expected_inner) for loss in found)


def train(loss, kernels, ids, barrier=None):
    """The losses of some steps."""
    optimizer, found = AdamW(parameter_groups(loss, 0.1), lr=3e-3, kernels=kernels), []
    for step in range(STEPS):
        if barrier:
            barrier.wait()
        value = loss(ids[step, :, :-1], ids[step, :, 1:])
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(value.item())
    return found


def write(model, ids, barrier=None):
    """The likeliest tokens after some ids, one by one."""
    found = ids
    with torch.inference_mode():
        for _ in range(STEPS):
            if barrier:
                barrier.wait()
            found = torch.cat([found, model(found)[:, -1].argmax(-1, keepdim=True)], -1)
    return found.tolist()


@pytest.mark.parametrize("choices", [(True, False, True)])
def test_two_threads_that_write_and_one_that_trains_get_what_they_get_alone(choices):
    torch.manual_seed(0)
    ids, losses = torch.randint(97, (STEPS, 4, 41)), [make_loss(kernels) for kernels in choices]
    states = [{name: value.clone() for name, value in loss.state_dict().items()} for loss in losses]

    def tasks(barrier=None):
        for loss, state in zip(losses, states, strict=True):
            loss.load_state_dict(state)
        first, second, third = losses
        yield write, first.model, ids[0, :, :9], barrier
        yield write, second.model, ids[1, :, :9], barrier
        yield train, third, choices[2], ids, barrier

    alone = [function(*arguments) for function, *arguments in tasks()]
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(*task) for task in tasks(threading.Barrier(3))]
        assert [future.result(60) for future in running] == alone
