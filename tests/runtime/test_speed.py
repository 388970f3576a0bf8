"""Measurements in turns, by a clock that the work itself turns."""

import pytest

from transformerlm.config import ModelConfig
from transformerlm.runtime import speed
from transformerlm.runtime.speed import MAX_WIDTH, best_seconds, has_emulation, matrices_of


class Clock:
    """Time that passes only by work."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(speed.time, "perf_counter", lambda: self.now)

    def work(self, *seconds):
        """Return work that takes these times in turn, the last for ever."""
        times = list(seconds)

        def run():
            self.now += times.pop(0) if len(times) > 1 else times[0]

        return run


def test_a_busy_moment_does_not_decide(monkeypatch):
    clock = Clock(monkeypatch)
    found = best_seconds({"one": clock.work(5.0, 0.01, 0.9, 0.01), "other": clock.work(5.0, 0.7, 0.02)})
    assert found == {"one": pytest.approx(0.01), "other": pytest.approx(0.02)}


def test_slow_work_has_few_turns(monkeypatch):
    clock = Clock(monkeypatch)
    best_seconds({"slow": clock.work(1.0)})
    assert clock.now == 1.0 + speed.MIN_ROUNDS


def test_what_is_many_times_slower_is_emulated():
    assert has_emulation({"float32": 1.0, "bfloat16": 20.0})
    assert not has_emulation({"float32": 1.0, "bfloat16": 1.8})
    assert not has_emulation({"float32": 8.0, "bfloat16": 1.0})  # matrix units


def test_the_matrices_are_the_models_own():
    model = ModelConfig(vocab_size=10**6, d_model=96, num_layers=3, num_heads=6, num_kv_heads=2, d_ff=256)
    shapes = [(3, 96, 160), (3, 96, 96), (3, 96, 512), (3, 256, 96), (1, 96, MAX_WIDTH)]
    assert matrices_of(model) == shapes
