"""Steps that are decided on the device: `take`."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from transformerlm.optim import AdamW, Muon


def pairs():
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((30, 40), (30, 40), (8, 5))]
    return ours, copy.deepcopy(ours)


def everything(optimizer):
    parameters = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    return parameters, optimizer.state_dict()["state"]


@pytest.mark.parametrize("kind", [AdamW, Muon])
def test_steps_that_are_not_taken_change_nothing_and_the_others_are_as_ever(kind):
    left_out, ours = (0, 4, 9), pairs()
    plain, decided = (kind(parameters, lr=1e-2) for parameters in ours)
    for number in range(10):
        for one, other in zip(*ours, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
            if number in left_out:
                other.grad.view(-1)[3] = (math.nan, math.inf, 1e30)[left_out.index(number)]
        before = copy.deepcopy(everything(decided))
        decided.step(take=torch.tensor(number not in left_out))
        if number not in left_out:
            plain.step()
        elif number:  # before the first step there is no state
            assert_close(everything(decided), before, rtol=0, atol=0)
    assert_close(ours[0], ours[1])


def test_both_kinds_of_steps_may_follow_each_other_and_a_checkpoint():
    ours = pairs()
    plain, decided = (AdamW(parameters, lr=1e-2) for parameters in ours)
    for take in (None, torch.tensor(True), None, torch.tensor(True)):
        for one, other in zip(*ours, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        plain.step()
        decided.step(take=take)
        decided.load_state_dict(copy.deepcopy(decided.state_dict()))
    assert_close(ours[0], ours[1])
    assert {state["step"].item() for state in decided.state.values()} == {4}


def test_mixed_precision_is_refused():
    parameter = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    parameter.grad = torch.ones(3, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="one dtype"):
        AdamW([parameter]).step(take=torch.tensor(True))
