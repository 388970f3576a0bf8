import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from transformerlm.nn import Linear


@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (2, 3, 4)])
def test_equals_torch_forward_and_backward(leading):
    layer = Linear(7, 11)
    x = torch.randn(*leading, 7, requires_grad=True)
    ours, theirs = layer(x), F.linear(x, layer.weight)
    assert_close(ours, theirs)
    for our, their in zip(
        torch.autograd.grad(ours.square().sum(), (x, layer.weight)),
        torch.autograd.grad(theirs.square().sum(), (x, layer.weight)),
        strict=True,
    ):
        assert_close(our, their)


def test_has_one_weight_out_by_in_and_no_bias():
    layer = Linear(7, 11, dtype=torch.bfloat16)
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == {"weight": (11, 7)}
    assert layer.weight.dtype == torch.bfloat16


def test_variance_is_two_over_the_sum_of_both_widths():
    weight = Linear(600, 200).weight.detach()
    assert weight.var().item() == pytest.approx(0.9733 * 2 / 800, rel=0.02)  # 0.9733: what the cut leaves
    assert weight.abs().max() <= 3 * (2 / 800) ** 0.5


def test_device_and_representation():
    layer = Linear(7, 11, device="meta")
    assert layer.weight.device.type == "meta"
    assert repr(layer) == "Linear(in_features=7, out_features=11)"
