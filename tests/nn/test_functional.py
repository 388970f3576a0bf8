import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from transformerlm.nn import cross_entropy, silu, softmax
from transformerlm.nn.functional import at_least_float32


def test_widen_never_narrows():
    for dtype, wide in {
        torch.bfloat16: torch.float32,
        torch.float32: torch.float32,
        torch.float64: torch.float64,
    }.items():
        assert at_least_float32(torch.ones(2, dtype=dtype)).dtype == wide


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_softmax_equals_torch(dim):
    x = torch.randn(5, 7, 3) * 10
    assert_close(softmax(x, dim), torch.softmax(x, dim))


@given(shift=st.floats(-1e4, 1e4))
def test_softmax_does_not_see_a_shift(shift):
    x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    assert_close(softmax(x + shift, -1), softmax(x, -1), rtol=1e-9, atol=0)


def test_softmax_gradient_equals_torch():
    x = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    weight = torch.randn(4, 9, dtype=torch.float64)
    (softmax(x, -1) * weight).sum().backward()
    (torch.softmax(y, -1) * weight).sum().backward()
    assert_close(x.grad, y.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_softmax_of_half_precision_sums_in_float32(dtype):
    # 70,000 equal terms: a float16 sum would be infinite, a bfloat16 sum would stop at 256.
    assert_close(softmax(torch.zeros(70_000, dtype=dtype), 0), torch.full((70_000,), 1 / 70_000, dtype=dtype))


def test_silu_equals_torch():
    x = torch.linspace(-30, 30, 201, requires_grad=True)
    assert_close(silu(x), F.silu(x))
    (ours,) = torch.autograd.grad(silu(x).sum(), x)
    (theirs,) = torch.autograd.grad(F.silu(x).sum(), x)
    assert_close(ours, theirs)


@pytest.mark.parametrize("leading", [(), (6,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_equals_torch(leading, reduction):
    logits = (torch.randn(*leading, 11) * 5).requires_grad_()
    targets = torch.randint(11, leading)
    ours = cross_entropy(logits, targets, reduction)
    theirs = F.cross_entropy(logits.reshape(-1, 11), targets.reshape(-1), reduction=reduction)
    assert_close(ours, theirs.view(leading) if reduction == "none" else theirs)
    (our_gradient,) = torch.autograd.grad(ours.sum(), logits)
    (their_gradient,) = torch.autograd.grad(theirs.sum(), logits)
    assert_close(our_gradient, their_gradient)


def test_cross_entropy_is_stable_at_large_logits():
    logits = torch.tensor([[1e3, 0.0, -1e3], [0.0, 1e3, 1e3]])
    assert_close(
        cross_entropy(logits, torch.tensor([0, 1]), "none"),
        torch.tensor([0.0, math.log(2)]),
        rtol=1e-6,
        atol=0,
    )
    assert cross_entropy(logits, torch.tensor([2, 0]), "none").tolist() == pytest.approx(
        [2e3, 1e3 + math.log(2)]
    )


def test_cross_entropy_of_a_shift_by_a_thousand_loses_nothing():
    logits, targets = torch.randn(50, 20).round(decimals=1), torch.randint(20, (50,))
    exact = F.cross_entropy(logits.double() + 1e3, targets).float()
    assert_close(cross_entropy(logits.double() + 1e3, targets).float(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cross_entropy_of_half_precision_is_float32(dtype):
    logits, targets = torch.randn(300, 5000).to(dtype), torch.randint(5000, (300,))
    loss = cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    assert_close(loss, F.cross_entropy(logits.double(), targets).float())


def test_cross_entropy_of_equal_logits_is_the_log_of_their_number():
    assert cross_entropy(torch.zeros(4, 1000), torch.arange(4)).item() == pytest.approx(math.log(1000))


def test_cross_entropy_knows_its_reductions():
    with pytest.raises(ValueError, match="reduction"):
        cross_entropy(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), "median")
