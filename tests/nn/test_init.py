import math

import pytest
import torch
from torch.testing import assert_close

from transformerlm.nn.init import linear_std, truncated_normal_

CUT = math.sqrt(1 - 6 * math.exp(-4.5) / math.sqrt(2 * math.pi) / math.erf(3 / math.sqrt(2)))
"""Standard deviation that is left of a unit normal cut at 3."""


@pytest.mark.parametrize("std", [1.0, 0.02])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_truncated_normal_is_normal_without_its_tails(std, dtype):
    weight = torch.empty(400_000, dtype=dtype)
    truncated_normal_(weight, std)
    drawn = weight.double() / std
    assert drawn.std().item() == pytest.approx(CUT, rel=5e-3)
    assert drawn.mean().abs() < 6e-3
    assert 2.95 < drawn.abs().max() <= 3 * (1 + torch.finfo(dtype).eps)
    # As many values within one deviation as a normal has, out of those that the cut leaves.
    within = (drawn.abs() < 1).double().mean().item()
    assert within == pytest.approx(math.erf(1 / math.sqrt(2)) / math.erf(3 / math.sqrt(2)), abs=5e-3)


def test_half_precision_is_the_rounded_draw_of_float32():
    whole, half = torch.empty(1000), torch.empty(1000, dtype=torch.bfloat16)
    torch.manual_seed(5)
    truncated_normal_(whole, 0.1)
    torch.manual_seed(5)
    truncated_normal_(half, 0.1)
    assert_close(half, whole.bfloat16(), rtol=0, atol=0)


def test_linear_std():
    assert linear_std(300, 100) ** 2 == pytest.approx(2 / 400)
