import pytest
import torch
from torch import nn

from transformerlm.logging import norms


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Sequential(nn.Linear(7, 7), nn.Linear(7, 3)))


def test_activation_norms_equal_direct_computation(model):
    inputs = torch.randn(4, 5)
    with norms.ActivationNorms(model) as measured:
        model(inputs)
    first = model[0](inputs)
    second = model[1][0](first)
    expected = {
        "norms.activation.0": first.norm(),
        "norms.activation.1": model[1][1](second).norm(),
        "norms.activation.1.0": second.norm(),
        "norms.activation.1.1": model[1][1](second).norm(),
    }
    torch.testing.assert_close(measured.values(), expected)


def test_accumulated_batches_count_as_one(model):
    inputs = torch.randn(6, 5)
    with norms.ActivationNorms(model, lambda name: name == "1") as whole:
        model(inputs)
    with norms.ActivationNorms(model, lambda name: name == "1") as parts:
        for part in inputs.split(2):
            model(part)
    torch.testing.assert_close(parts.values(), whole.values())


def test_hooks_are_gone_afterwards_and_change_nothing(model):
    inputs = torch.randn(4, 5)
    before = model(inputs)
    measured = norms.ActivationNorms(model)
    with pytest.raises(KeyError), measured:
        torch.testing.assert_close(model(inputs), before, rtol=0, atol=0)
        raise KeyError
    seen = norms.to_floats(measured.values())
    model(inputs * 2)
    assert norms.to_floats(measured.values()) == seen
    assert not any(module._forward_hooks for module in model.modules())


def test_norms_hold_no_graph(model):
    with norms.ActivationNorms(model) as measured:
        model(torch.randn(4, 5)).sum().backward()
    assert not any(value.requires_grad for value in measured.values().values())


def test_weight_norms_equal_direct_computation(model):
    expected = {
        f"norms.weight.{name}": parameter.detach().norm() for name, parameter in model.named_parameters()
    }
    torch.testing.assert_close(norms.weight_norms(model), expected)
    floats = norms.to_floats(norms.weight_norms(model))
    assert floats == pytest.approx({name: value.item() for name, value in expected.items()})


def test_half_precision_does_not_overflow():
    layer = nn.Linear(64, 64, bias=False).half()
    nn.init.constant_(layer.weight, 1000)
    assert norms.to_floats(norms.weight_norms(layer)) == {"norms.weight.weight": 64000.0}


def test_nothing_watched_is_nothing_logged(model):
    with norms.ActivationNorms(model, lambda name: False) as measured:
        model(torch.randn(1, 5))
    assert norms.to_floats(measured.values()) == {}
