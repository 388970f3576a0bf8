import pytest
import torch
from torch import Tensor

from transformerlm.nn import cross_entropy, loss
from transformerlm.nn.loss import linear_cross_entropy

NUM_TARGETS = 2**20
"""Targets of a whole step: 1 / NUM_TARGETS is hardly a number of float16, a probability of it is none."""


def operands(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Hidden states [300, 16], and a head [512, 16], whose numbers are exact in float16 and bfloat16."""
    generator = torch.Generator().manual_seed(0)
    numbers = (torch.randint(-16, 17, (812, 16), generator=generator) / 16).to(dtype)
    return [numbers[:300].clone().requires_grad_(), numbers[300:].clone().requires_grad_()]


def targets() -> Tensor:
    return torch.randint(512, (300,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["one chunk", "chunks"])
def _chunks(request, monkeypatch):
    if request.param == "chunks":
        monkeypatch.setitem(loss.CHUNK_BYTES, "cpu", 2**16)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_gradient_is_that_of_float64_within_the_rounding_of_autocast(dtype):
    exact = operands(torch.float64)
    expected = cross_entropy(exact[0] @ exact[1].T, targets(), "sum") / NUM_TARGETS
    expected.backward()

    ours, plain = operands(), operands()
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        got = linear_cross_entropy(*ours, targets(), NUM_TARGETS)
        usual = cross_entropy(plain[0] @ plain[1].T, targets(), "sum") / NUM_TARGETS
    scaler.scale(got).backward()
    scaler.scale(usual).backward()
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected.detach(), rtol=1e-3, atol=0)
    for mine, theirs, want in zip(ours, plain, exact, strict=True):
        errors = [distance(x.grad / scaler.get_scale(), want.grad) for x in (mine, theirs)]
        assert errors[0] < 1.5 * errors[1] + 1e-6
        assert not ((mine.grad == 0) & (want.grad != 0)).any()


def distance(got: Tensor, expected: Tensor) -> float:
    return ((got.double() - expected).norm() / expected.norm()).item()


def test_a_loss_scale_that_is_too_large_shows_in_the_gradient():
    hidden, weight = operands()
    with torch.autocast("cpu", torch.float16):
        nats = linear_cross_entropy(hidden, weight, targets())
    (nats * 2.0**40).backward()
    assert not hidden.grad.isfinite().all()
    assert not weight.grad.isfinite().all()
