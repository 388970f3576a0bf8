"""The pilot: a short training on the text itself."""

import dataclasses
import random

import numpy as np
import pytest
import torch

from transformerlm.config import RuntimeConfig
from transformerlm.recipe import pilot
from transformerlm.recipe.pilot import Pilot, PilotText, run_pilot
from transformerlm.runtime import Runtime

CONFIG = RuntimeConfig(device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def tiny_pilot(monkeypatch):
    sizes = {"context_length": 32, "d_model": 32, "num_layers": 1, "num_heads": 1, "d_ff": 64}
    monkeypatch.setattr(pilot, "SHAPE", dataclasses.replace(pilot.SHAPE, **sizes))


def words(number: int, seed: int) -> PilotText:
    """A text of five tokens of two bytes, each of which has one of two successors."""
    rng, ids = random.Random(seed), [0]
    for _ in range(number):
        ids.append((ids[-1] + rng.choice((1, 2))) % 5)
    return PilotText(np.array(ids), np.array(ids[:600]), 2 * len(ids), 2 * 600, 5)


def run(text: PilotText, num_tokens: float) -> Pilot:
    return run_pilot(text, num_tokens, Runtime.from_config(CONFIG), CONFIG)


def test_it_learns_the_text_and_leaves_the_hosts_random_state():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    found = run(words(20_000, seed=1), 80 * 16 * 32)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.bits_per_byte == pytest.approx(0.5, rel=0.1)  # one bit a token of two bytes
    assert run(words(20_000, seed=1), 80 * 16 * 32) == found


@pytest.mark.parametrize(
    ("num_tokens", "text_tokens", "max_passes", "expected"),
    [
        (0, 1000, 3.0, 2),
        (4 * 32, 1000, 3.0, 4),
        (10**9, 1000, 3.0, 5),
        (10**9, 30, 3.0, 3),
        (10**9, 30, 1.0, 2),
    ],
)
def test_its_length(num_tokens, text_tokens, max_passes, expected, monkeypatch):
    for name in ("MIN_BATCH_SIZE", "BATCH_SIZE"):
        monkeypatch.setattr(pilot, name, 1)
    for name, value in (("MIN_STEPS", 2), ("MAX_STEPS", 5), ("MAX_PASSES", max_passes)):
        monkeypatch.setattr(pilot, name, value)
    text = words(text_tokens, seed=2)
    length = text.shape.context_length
    assert run(text, num_tokens).read_bytes == pytest.approx(2 * expected * length)


@pytest.mark.parametrize(
    ("num_tokens", "batches"), [(0, [2] * 5), (17 * 32, [3] * 6), (20 * 32, [4] * 5), (10**9, [4] * 7)]
)
def test_where_there_is_little_time_steps_are_smaller_rather_than_fewer(num_tokens, batches, monkeypatch):
    limits = {"MIN_BATCH_SIZE": 2, "BATCH_SIZE": 4, "MIN_STEPS": 5, "MAX_STEPS": 7}
    for name, value in limits.items():
        monkeypatch.setattr(pilot, name, value)
    seen = []

    class Counted(pilot.NextTokenLoss):
        def forward(self, inputs, *others):
            seen.extend([len(inputs)] * self.training * torch.is_grad_enabled())
            return super().forward(inputs, *others)

    monkeypatch.setattr(pilot, "NextTokenLoss", Counted)
    text = words(20_000, seed=1)
    found = run(text, num_tokens)
    assert seen == batches
    assert found.read_bytes == pytest.approx(2 * 32 * sum(batches))
