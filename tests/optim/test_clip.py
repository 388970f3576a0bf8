import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from transformerlm.optim import clip_grad_norm_


def parameters(scale: float = 1.0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    result = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in ((3, 4), (5,), (), (2, 2))]
    for parameter in result[:3]:  # the last has no gradient
        parameter.grad = (scale * torch.randn(parameter.shape)).to(dtype)
    return result


@given(scale=st.floats(1e-3, 1e3), max_norm=st.floats(1e-3, 1e3))
def test_equals_torch(scale, max_norm):
    ours = parameters(scale)
    theirs = copy.deepcopy(ours)
    for our, their in zip(ours, theirs, strict=True):
        their.grad = None if our.grad is None else our.grad.clone()
    assert_close(clip_grad_norm_(iter(ours), max_norm), nn.utils.clip_grad_norm_(theirs, max_norm))
    for our, their in zip(ours[:3], theirs[:3], strict=True):
        assert_close(our.grad, their.grad)
    assert ours[3].grad is None


def test_returns_the_norm_before_and_leaves_the_norm_asked_for():
    clipped = parameters(100.0)
    before = math.sqrt(sum(p.grad.double().square().sum().item() for p in clipped[:3]))
    assert clip_grad_norm_(clipped, 0.5).item() == pytest.approx(before)
    assert clip_grad_norm_(clipped, math.inf).item() == pytest.approx(0.5)


def test_a_norm_within_the_bound_changes_nothing():
    untouched = parameters()
    before = [p.grad.clone() for p in untouched[:3]]
    clip_grad_norm_(untouched, 1e6)
    for parameter, gradient in zip(untouched, before, strict=False):
        assert_close(parameter.grad, gradient, rtol=0, atol=0)


def test_eps_is_added_to_the_norm():
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([4.0])
    clip_grad_norm_(parameter, 1.0, eps=1.0)
    assert parameter.grad.item() == pytest.approx(4 / 5)


@pytest.mark.parametrize("culprit", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_returned_and_the_gradients_are_left(culprit):
    broken = parameters()
    broken[1].grad[2] = culprit
    before = [p.grad.clone() for p in broken[:3]]
    assert not clip_grad_norm_(broken, 1.0).isfinite()
    for parameter, gradient in zip(broken, before, strict=False):
        assert_close(parameter.grad, gradient, rtol=0, atol=0, equal_nan=True)


def test_half_precision_gradients_do_not_overflow():
    half = parameters(10_000.0, torch.float16)
    exact = math.sqrt(sum(p.grad.double().square().sum().item() for p in half[:3]))
    norm = clip_grad_norm_(half, 1.0)
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(exact)
    assert half[0].grad.dtype == torch.float16


def test_no_gradient_at_all_has_norm_zero():
    assert clip_grad_norm_([nn.Parameter(torch.ones(3))], 1.0).item() == 0
    assert clip_grad_norm_([], 1.0).item() == 0


def test_precisions_may_differ_and_each_gradient_keeps_its_own():
    mixed = [nn.Parameter(torch.zeros(40, dtype=dtype)) for dtype in (torch.bfloat16, torch.float32) * 2]
    for parameter in mixed:
        parameter.grad = torch.randn(40).to(parameter.dtype)
    before = [parameter.grad.double() for parameter in mixed]
    exact = torch.cat(before).norm()
    norm = clip_grad_norm_(mixed, 0.5)
    assert norm.dtype == torch.float32
    assert_close(norm.double(), exact, rtol=1e-6, atol=0)
    for parameter, gradient in zip(mixed, before, strict=True):
        expected = (gradient * 0.5 / (exact + 1e-6)).to(parameter.dtype)
        assert parameter.grad.dtype == parameter.dtype
        assert_close(parameter.grad, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("scale", [1e-3, 100.0])
def test_a_gpu_agrees_without_waiting(scale):
    here = parameters(scale)
    there = [nn.Parameter(parameter.detach().cuda()) for parameter in here]
    for parameter, other in zip(here[:3], there, strict=False):
        other.grad = parameter.grad.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        norm = clip_grad_norm_(there, 0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_close(norm.cpu(), clip_grad_norm_(here, 0.5))
    for our, their in zip(here[:3], there, strict=False):
        assert_close(our.grad, their.grad.cpu())
