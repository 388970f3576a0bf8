import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tests.training.tiny_runs import CONFIG, MODEL, SignalAt, assert_same_weights, changed, run, write_tokens
from transformerlm.nn import NextTokenLoss, TransformerLM
from transformerlm.training.activation_checkpointing import checkpoint_activations
from transformerlm.training.dropout import add_dropout, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.4])
def test_numbers_are_dropped_as_often_as_asked_and_the_others_scaled(dtype, probability):
    torch.manual_seed(0)
    x = torch.randn(64, 1003, dtype=dtype).abs() + 1  # no multiple of the bytes that are drawn at a time
    kept = dropout(x, probability)
    is_dropped = kept == 0
    rate = round(probability * 256) / 256
    deviation = (rate * (1 - rate) / x.numel()) ** 0.5
    assert abs(is_dropped.float().mean().item() - rate) < 4 * deviation
    assert torch.allclose(kept[~is_dropped].float(), x[~is_dropped].float() / (1 - rate), rtol=1e-2)
    # As PyTorch's own, on average.
    assert kept.float().mean().item() == pytest.approx(F.dropout(x.float(), rate).mean().item(), rel=0.02)


def test_the_gradient_is_that_of_what_was_kept():
    x = torch.randn(7, 11, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    kept = dropout(x, 0.5)
    kept.sum().backward()
    assert torch.equal(x.grad, torch.where(kept == 0, 0.0, 2.0).to(torch.float64))


def losses(model, times=2):
    torch.manual_seed(1)
    ids, targets = torch.randint(64, (2, 3, 16))
    found = []
    for _ in range(times):
        loss = NextTokenLoss(model)(ids, targets, targets.numel())
        loss.backward()
        found.append(loss.item())
    return found, [parameter.grad for parameter in model.parameters()]


def make(probability):
    torch.manual_seed(0)
    model = TransformerLM(MODEL)
    add_dropout(model, probability)
    return model


def test_only_passes_that_record_gradients_are_changed():
    plain, dropping = make(0.0), make(0.3)
    assert list(plain.state_dict()) == list(dropping.state_dict())
    first, second = losses(dropping)[0]
    assert first != second
    assert len(set(losses(plain)[0])) == 1
    ids = torch.randint(64, (2, 16))
    with torch.no_grad():
        assert torch.equal(plain(ids), dropping(ids))


def test_a_pass_that_is_repeated_drops_the_same_numbers():
    plain, checkpointed = make(0.3), make(0.3)
    checkpoint_activations(checkpointed, is_random=True)
    (found, gradients), (again, repeated) = losses(plain), losses(checkpointed)
    assert found == again
    for left, right in zip(gradients, repeated, strict=True):
        assert torch.equal(left, right)


def test_a_resumed_run_computes_the_same_bits(tmp_path):
    config = changed(CONFIG, training={"dropout": 0.2})
    data = write_tokens(tmp_path)
    whole = run(config, data, tmp_path / "whole")
    run(config, data, tmp_path / "parts", signal_at=SignalAt(7))
    resumed = run(config, data, tmp_path / "parts")
    assert resumed.step == whole.step
    assert_same_weights(whole, resumed)
    without = run(dataclasses.replace(CONFIG), data, tmp_path / "without")
    assert any(
        not torch.equal(left, right)
        for left, right in zip(whole.model.parameters(), without.model.parameters(), strict=True)
    )
