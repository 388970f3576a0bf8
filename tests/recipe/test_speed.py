"""Speed of training by what was measured."""

import pytest

from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.recipe import TrainingSpeed, measure_speed, speed
from transformerlm.runtime import Runtime

SMALL = ModelConfig(vocab_size=64, context_length=16, d_model=32, num_layers=2, num_heads=2, d_ff=64)
LARGE = ModelConfig(vocab_size=64, context_length=16, d_model=96, num_layers=2, num_heads=2, d_ff=256)


def test_a_measured_model_corrects_all_others_in_proportion():
    speed = TrainingSpeed({32: 1e9, 128: 4e9})
    corrected = speed.corrected(SMALL, 1234.0)
    assert corrected.tokens_per_second(SMALL) == pytest.approx(1234.0)
    factor = 1234.0 / speed.tokens_per_second(SMALL)
    assert corrected.tokens_per_second(LARGE) == pytest.approx(factor * speed.tokens_per_second(LARGE))
    again = corrected.corrected(LARGE, 77.0)
    assert again.tokens_per_second(LARGE) == pytest.approx(77.0)


@pytest.mark.parametrize("is_quiet", [True, False])
def test_only_a_quiet_machines_speed_is_kept(is_quiet, tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFORMERLM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(speed, "is_quiet", lambda since=None: is_quiet)
    rates = iter([1.0, 2.0])
    monkeypatch.setattr(speed, "_measured", lambda *_: dict.fromkeys(speed.WIDTHS, next(rates)))
    config = RuntimeConfig(device="cpu", dtype="float32")
    runtime = Runtime.from_config(config)
    found = [measure_speed(runtime, config).flops[64] for _ in range(2)]
    assert found == ([1.0, 1.0] if is_quiet else [1.0, 2.0])


def test_wide_models_are_not_measured_where_narrow_ones_take_long(monkeypatch):
    monkeypatch.setattr(speed, "MAX_STEP_SECONDS", 0.0)
    config = RuntimeConfig(device="cpu", dtype="float32")
    found = speed._measured(Runtime.from_config(config), "auto")
    assert list(found) == list(speed.WIDTHS)
    assert len(set(found.values())) == 1
