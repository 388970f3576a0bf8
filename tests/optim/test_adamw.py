import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from transformerlm.optim import AdamW, Muon, clip_grad_norm_
from transformerlm.optim.adamw import _update_many, adamw_update_, multi_tensor_adamw_update_


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_multi_tensor_update_is_the_single_one_to_the_bit(dtype):
    numbers = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.3}
    shapes = [(17, 33), (5,), (), (2, 3, 4), (0,)]
    singly = [[torch.randn(shape, dtype=dtype) for shape in shapes] for _ in range(3)]
    singly[2] = [x.square() for x in singly[2]]
    together = copy.deepcopy(singly)
    for step in (3, 4, 5):
        grads = [torch.randn(shape, dtype=dtype) for shape in shapes]
        for parameter, exp_avg, exp_avg_sq, grad in zip(*singly, grads, strict=True):
            adamw_update_(parameter, grad, exp_avg, exp_avg_sq, step, **numbers)
        parameters, exp_avgs, exp_avg_sqs = together
        multi_tensor_adamw_update_(parameters, grads, exp_avgs, exp_avg_sqs, step, **numbers)
    assert_close(together, singly, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_agrees():
    """Within float32's rounding: there a multiplication and an addition may round once."""
    here = [nn.Parameter(torch.randn(shape)) for shape in ((30, 40), (7,), (3, 5))]
    there = [nn.Parameter(parameter.detach().cuda()) for parameter in here]
    ours, theirs = AdamW(here, lr=1e-2), AdamW(there, lr=1e-2)
    for _ in range(20):
        for parameter, other in zip(here, there, strict=True):
            parameter.grad = torch.randn_like(parameter)
            other.grad = parameter.grad.cuda()
        ours.step()
        theirs.step()
    for our, their in zip(here, there, strict=True):
        assert_close(our, their.cpu())
    assert {state["step"].device.type for state in theirs.state.values()} == {"cpu"}


@pytest.mark.parametrize("kind", [AdamW, Muon])
def test_a_step_reads_nothing_back_from_the_device(kind):
    """Tensors on "meta" hold no numbers: whoever asked for one would fail."""
    parameters = [nn.Parameter(torch.ones(shape, device="meta")) for shape in ((3, 4), (3, 4), (7, 2))]
    optimizer = kind(parameters)
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        clip_grad_norm_(parameters, 1.0)
        optimizer.step()


def test_parameters_of_one_group_may_differ_in_step_and_precision():
    def make() -> list[Tensor]:
        generator = torch.Generator().manual_seed(3)
        dtypes = (torch.float32, torch.float32, torch.float64, torch.float64, torch.float32)
        return [nn.Parameter(torch.randn(6, generator=generator).to(dtype)) for dtype in dtypes]

    ours, theirs = make(), make()
    optimizer, peer = AdamW(ours, lr=0.1), torch.optim.AdamW(theirs, lr=0.1)
    for step in range(12):
        for i, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            grad = torch.randn(6).to(our.dtype)
            has_one = i == 0 or step % (i + 1) == 0  # each parameter misses other steps
            our.grad, their.grad = (grad, grad.clone()) if has_one else (None, None)
        optimizer.step()
        peer.step()
    assert len({state["step"].item() for state in optimizer.state.values()}) > 3
    for our, their in zip(ours, theirs, strict=True):
        assert_close(our, their)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["state"][0].pop("exp_avg"), "expected .*'exp_avg'.* for a parameter, got"),
        (lambda state: state["state"][0].update(max_exp_avg_sq=torch.ones(9, 5)), "got .*max_exp_avg_sq"),
        (
            lambda state: state["state"][0].update(exp_avg=torch.ones(5, 9)),
            r"expected exp_avg of shape \(9, 5\), got \(5, 9\)",
        ),
        (lambda state: state["state"][1].update(step=7), r"expected step of shape \(\), got int"),
        (lambda state: state["param_groups"].pop(), r"expected groups of \[2, 2\] parameters, got \[2\]"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change, message):
    model = small_model()
    optimizer = AdamW(groups(model))
    train(model, optimizer, range(3))
    before = copy.deepcopy(optimizer.state_dict())
    state = copy.deepcopy(before)
    state["param_groups"][0]["lr"] = 0.5
    change(state)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert_states_equal(optimizer.state_dict(), before)


def test_a_group_keeps_what_the_state_does_not_name():
    optimizer = AdamW([{"params": [nn.Parameter(torch.ones(2))], "note": "kept"}])
    optimizer.load_state_dict(AdamW([nn.Parameter(torch.ones(2))], lr=0.125).state_dict())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["note"]) == (0.125, "kept")


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


@pytest.mark.parametrize("shape", [(1,), (5, 7), (300, 700)])
def test_the_cpus_kernel_does_the_same(shape):
    exact = [torch.randn(shape, dtype=torch.float64) for _ in range(4)]
    exact[3].abs_()
    ours = [tensor.float() for tensor in exact]
    numbers = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    for step in range(1, 6):
        adamw_update_(*exact, step, **numbers)
        _update_many(*([tensor] for tensor in ours), step, **numbers, kernels=True)
    for got, expected in zip(ours, exact, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("tensors", [torch.randn(4, 3, 3, dtype=torch.float64), torch.randn(4, 3, 2).mT])
def test_what_the_kernel_cannot_take_gets_the_plain_update(tensors):
    tensors = [*tensors[:3], tensors[3].abs()]
    plain = [tensor.clone() for tensor in tensors]
    numbers = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    adamw_update_(*plain, 1, **numbers)
    _update_many(*([tensor] for tensor in tensors), 1, **numbers, kernels=True)
    assert all(map(torch.equal, tensors, plain))
