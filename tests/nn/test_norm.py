import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from transformerlm.nn import RMSNorm
from transformerlm.nn.fused import with_kernels


@pytest.mark.parametrize("leading", [(), (5,), (2, 3, 4)])
def test_equals_torch_forward_and_backward(leading):
    norm = RMSNorm(16, eps=1e-3, dtype=torch.float64)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(*leading, 16, dtype=torch.float64, requires_grad=True)
    ours, theirs = norm(x), F.rms_norm(x, (16,), norm.weight, eps=1e-3)
    assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    for our, their in zip(
        torch.autograd.grad((ours * weight).sum(), (x, norm.weight)),
        torch.autograd.grad((theirs * weight).sum(), (x, norm.weight)),
        strict=True,
    ):
        assert_close(our, their)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype, weight_dtype):
    norm = RMSNorm(512, dtype=weight_dtype)
    x = (300 * torch.randn(4, 512)).to(dtype)  # squares beyond what float16 holds
    y = norm(x)
    assert y.dtype == dtype
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert_close(y, exact.to(dtype))


def test_eps_keeps_zeros_finite():
    assert RMSNorm(8)(torch.zeros(2, 8)).abs().max() == 0


def test_length_does_not_matter_and_the_gain_starts_at_one():
    norm, x = RMSNorm(32, eps=1e-12), torch.randn(3, 32)
    assert_close(norm(1000 * x), norm(x))
    assert_close(norm(x).square().mean(-1), torch.ones(3))


def test_representation():
    assert repr(RMSNorm(8)) == "RMSNorm(d_model=8, eps=1e-05)"


def test_kernels_take_a_model_whose_weights_are_in_bfloat16():
    norm = RMSNorm(48, dtype=torch.bfloat16)
    torch.nn.init.uniform_(norm.weight, 0.5, 2)
    x = torch.randn(7, 48, dtype=torch.bfloat16)
    assert_close(with_kernels(norm)(x), norm(x))
