import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from transformerlm.optim import AdamW
from transformerlm.optim.adamw import adamw_update_


def small_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 3)).to(dtype)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Steps on data that depend on the step alone, with a learning rate that moves."""
    dtype = next(model.parameters()).dtype
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 5, generator=generator).to(dtype)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 + math.cos(math.pi * step / 1000)) / 2
        optimizer.zero_grad()
        (model(x) - x[:, :3].sin()).square().mean().backward()
        optimizer.step()


def groups(model: nn.Module) -> list[dict]:
    return [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.3, "betas": (0.8, 0.95)},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0, "eps": 1e-6},
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_thousand_steps_equal_torchs(dtype):
    ours, theirs = small_model(dtype), small_model(dtype)
    train(ours, AdamW(groups(ours), lr=1e-2), range(1000))
    train(theirs, torch.optim.AdamW(groups(theirs), lr=1e-2), range(1000))
    for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(our, their)
    assert any(
        (our != start).any()
        for our, start in zip(ours.parameters(), small_model(dtype).parameters(), strict=True)
    )


def test_defaults_are_torchs():
    parameter = nn.Parameter(torch.zeros(1))
    ours, theirs = AdamW([parameter]).defaults, torch.optim.AdamW([parameter]).defaults
    assert ours == {name: theirs[name] for name in ours}


def test_an_update_is_the_formula():
    weight, grads = 0.7, [0.3, -0.2, 0.05]
    m = v = 0.0
    parameter, exp_avg, exp_avg_sq = (torch.tensor([x], dtype=torch.float64) for x in (weight, m, v))
    for step, grad in enumerate(grads, start=1):
        m, v = 0.9 * m + 0.1 * grad, 0.99 * v + 0.01 * grad**2
        weight -= 0.1 * 0.2 * weight
        weight -= 0.1 * (m / (1 - 0.9**step)) / (math.sqrt(v / (1 - 0.99**step)) + 1e-3)
        adamw_update_(
            parameter,
            torch.tensor([grad], dtype=torch.float64),
            exp_avg,
            exp_avg_sq,
            step,
            lr=0.1,
            betas=(0.9, 0.99),
            eps=1e-3,
            weight_decay=0.2,
        )
        assert (parameter.item(), exp_avg.item(), exp_avg_sq.item()) == pytest.approx(
            (weight, m, v), rel=1e-12
        )


def test_decay_does_not_depend_on_the_gradient():
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = AdamW([parameter], lr=0.1, weight_decay=0.5)
    parameter.grad = torch.zeros(2)
    optimizer.step()
    assert_close(parameter.detach(), torch.tensor([0.95, -1.9]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_going_on_from_a_state_dict_is_exact(dtype):
    straight = small_model(dtype)
    train(straight, AdamW(groups(straight)), range(40))

    first = small_model(dtype)
    optimizer = AdamW(groups(first))
    train(first, optimizer, range(25))
    saved = copy.deepcopy(optimizer.state_dict())
    second = copy.deepcopy(first)
    resumed = AdamW(groups(second))
    resumed.load_state_dict(optimizer.state_dict())
    train(first, optimizer, range(25, 30))  # the two share nothing
    assert_states_equal(resumed.state_dict(), saved)
    train(second, resumed, range(25, 40))
    for our, their in zip(second.parameters(), straight.parameters(), strict=True):
        assert_close(our, their, rtol=0, atol=0)


def assert_states_equal(ours: dict, theirs: dict) -> None:
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for key, state in ours["state"].items():
        assert state.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for name, value in state.items():
            assert_close(value, theirs["state"][key][name], rtol=0, atol=0)


def test_goes_on_from_a_state_dict_of_torchs():
    ours, theirs = small_model(), small_model()
    peer = torch.optim.AdamW(theirs.parameters())
    train(theirs, peer, range(10))
    optimizer = AdamW(ours.parameters())
    optimizer.load_state_dict(peer.state_dict())
    ours.load_state_dict(theirs.state_dict())
    train(theirs, peer, range(10, 30))
    train(ours, optimizer, range(10, 30))
    for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(our, their)


def test_a_state_dict_of_an_optimizer_that_never_stepped():
    model = small_model()
    optimizer = AdamW(model.parameters())
    optimizer.load_state_dict(AdamW(small_model().parameters(), lr=0.25).state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.25
    train(model, optimizer, range(2))


def test_state_is_float32_for_half_precision_and_small_updates_are_not_lost_in_it():
    parameter = nn.Parameter(torch.full((4,), 256.0, dtype=torch.bfloat16))
    optimizer = AdamW([parameter], lr=1e-3, betas=(0.9, 0.9999), weight_decay=0)
    for _ in range(300):
        parameter.grad = torch.full((4,), 0.01, dtype=torch.bfloat16)
        optimizer.step()
    state = optimizer.state[parameter]
    assert {name: value.dtype for name, value in state.items()} == dict.fromkeys(state, torch.float32)
    # In bfloat16 the mean of squares would stop growing far below: it keeps 8 bits.
    gradient = parameter.grad[0].double().item()
    assert_close(state["exp_avg_sq"], torch.full((4,), gradient**2 * (1 - 0.9999**300)), rtol=1e-3, atol=0)


def test_half_precision_weights_follow_float32_within_one_rounding_a_step():
    half = nn.Parameter(torch.randn(50).bfloat16())
    whole = nn.Parameter(half.detach().float())
    grad = torch.randn(50).bfloat16()
    half.grad, whole.grad = grad, grad.float()
    AdamW([half], lr=0.1).step()
    AdamW([whole], lr=0.1).step()
    assert_close(half.detach(), whole.detach().bfloat16(), rtol=0, atol=0)


def test_a_parameter_without_gradient_is_left_alone():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    used.grad = torch.ones(2)
    optimizer = AdamW([used, unused], weight_decay=0.5)
    optimizer.step()
    assert unused.tolist() == [1, 1]
    assert list(optimizer.state) == [used]


def test_a_closure_is_called_with_gradients_on_and_its_loss_returned():
    parameter = nn.Parameter(torch.tensor([3.0]))
    optimizer = AdamW([parameter], lr=0.5, weight_decay=0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9
    assert parameter.item() == pytest.approx(2.5)
    assert optimizer.step() is None


def test_works_with_gradient_scaling():
    """float16 training: steps whose gradients overflow are left out, the others equal unscaled ones."""
    ours, theirs = small_model(), small_model()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer, plain = AdamW(ours.parameters()), AdamW(theirs.parameters())
    x = torch.randn(16, 5)
    for model, step in (
        (ours, lambda loss: (scaler.scale(loss).backward(), scaler.step(optimizer), scaler.update())),
        (theirs, lambda loss: (loss.backward(), plain.step())),
    ):
        for _ in range(5):
            model.zero_grad()
            step(model(x).square().mean())
    for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(our, their)
    before = copy.deepcopy(list(ours.parameters()))
    ours.zero_grad()
    scaler.scale(ours(x).square().mean() * math.inf).backward()
    scaler.step(optimizer)
    for our, their in zip(ours.parameters(), before, strict=True):
        assert_close(our, their, rtol=0, atol=0)


def test_a_sparse_gradient_is_refused():
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.sparse_coo_tensor([[0]], [1.0], (3,), check_invariants=True)
    with pytest.raises(ValueError, match="sparse"):
        AdamW([parameter]).step()


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": -1.0},
        {"lr": math.nan},
        {"eps": -1e-8},
        {"weight_decay": math.inf},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
    ],
)
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        AdamW([nn.Parameter(torch.ones(1))], **bad)
    with pytest.raises(ValueError, match=next(iter(bad))):
        AdamW([{"params": [nn.Parameter(torch.ones(1))], **bad}])
