import copy
import io
import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from transformerlm.checkpoint.store import load_checkpoint, save_checkpoint
from transformerlm.optim import AdamW, Muon, muon, orthogonalized
from transformerlm.optim.muon import POLAR_EXPRESS, SAFETY

SHAPES = [(8, 20), (20, 8), (12, 12), (12, 12), (1, 5), (8, 20)]
JORDAN = (3.4445, -4.7750, 2.0315)


def polynomial(s, a, b, c):
    return a * s + b * s**3 + c * s**5


def matrix_of(spectrum: Tensor, rows: int, columns: int) -> Tensor:
    """A random matrix with these singular values, in float64."""
    left, _, right = torch.linalg.svd(torch.randn(rows, columns, dtype=torch.float64), full_matrices=False)
    return left * spectrum @ right


def slow_orthogonalized(matrix: Tensor, num_steps: int) -> Tensor:
    """The iteration, on the singular values themselves, in float64."""
    left, s, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / (SAFETY * s.norm(dim=-1, keepdim=True))
    for step in range(num_steps):
        a, b, c = POLAR_EXPRESS[min(step, len(POLAR_EXPRESS) - 1)]
        if step < len(POLAR_EXPRESS) - 1:
            a, b, c = a / SAFETY, b / SAFETY**3, c / SAFETY**5
        s = polynomial(s, a, b, c)
    return left * s.unsqueeze(-2) @ right


class SlowMuon:
    """The update of one matrix at a time, in float64, from the singular value decomposition."""

    def __init__(self, weights: list[Tensor], momentum: float, weight_decay: float) -> None:
        self.weights = [weight.detach().double().clone() for weight in weights]
        self.sums = [torch.zeros_like(weight) for weight in self.weights]
        self.momentum, self.weight_decay = momentum, weight_decay

    def step(self, grads: list[Tensor], lr: float) -> None:
        for i, grad in enumerate(grads):
            self.sums[i] = self.momentum * self.sums[i] + grad
            direction = slow_orthogonalized(grad + self.momentum * self.sums[i], 5)
            rows, columns = grad.shape
            change = lr * max(1.0, rows / columns) ** 0.5 * direction
            self.weights[i] = self.weights[i] - lr * self.weight_decay * self.weights[i] - change


def parameters(dtype: torch.dtype = torch.float32, shapes: list[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def train(optimizer: torch.optim.Optimizer, parameters: list[Tensor], steps: range) -> None:
    """Steps with gradients and a learning rate that depend on the step alone."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (1 + step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()


@pytest.mark.parametrize("shape", [(6, 15), (15, 6), (9, 9), (4, 5, 3), (2, 3, 4, 7), (1, 8), (1, 1)])
@pytest.mark.parametrize("num_steps", [1, 5, 11])
def test_the_iteration_is_its_polynomials_of_the_singular_values(shape, num_steps):
    matrices = torch.randn(shape, dtype=torch.float64)
    assert_close(orthogonalized(matrices, num_steps), slow_orthogonalized(matrices, num_steps))


@pytest.mark.parametrize(("rows", "columns"), [(16, 40), (40, 16), (24, 24)])
def test_many_steps_give_the_orthogonal_matrix_of_the_decomposition(rows, columns):
    matrix = matrix_of(torch.logspace(-2.8, 0, min(rows, columns), dtype=torch.float64), rows, columns)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert_close(orthogonalized(matrix, 10), left @ right)
    assert_close(orthogonalized(matrix.float(), 10).double(), left @ right, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [(torch.float32, 0.87, 1.13), (torch.bfloat16, 0.86, 1.14)]
)
def test_five_steps_bring_singular_values_into_the_band(dtype, low, high):
    spectrum = torch.logspace(0, -3.5, 96, dtype=torch.float64)
    left, _, right = torch.linalg.svd(torch.randn(96, 200, dtype=torch.float64), full_matrices=False)
    found = orthogonalized((left * spectrum @ right).float(), dtype=dtype)
    found = (left.mT @ found.double() @ right.mT).diagonal()
    before = spectrum / spectrum.norm()
    above = before > 0.002
    assert 30 < above.sum() < 90
    assert low < found[above].min() < found.max() < high
    assert ((1 - found) < (1 - before))[~above].all()


def test_the_band_and_that_it_is_narrower_than_with_one_polynomial_for_all_steps():
    s = torch.logspace(math.log10(0.002), 0, 100_001, dtype=torch.float64)
    ours, jordans = s / SAFETY, s
    for a, b, c in POLAR_EXPRESS[:5]:
        ours = polynomial(ours, a / SAFETY, b / SAFETY**3, c / SAFETY**5)
        jordans = polynomial(jordans, *JORDAN)
    assert (ours.min().item(), ours.max().item()) == pytest.approx((0.8703, 1.1236), abs=1e-4)
    assert (jordans.min().item(), jordans.max().item()) == pytest.approx((0.6818, 1.2024), abs=1e-4)


def test_each_polynomial_is_the_best_for_what_the_one_before_leaves():
    """A best approximation of 1 errs by the same amount, with changing signs, where it errs most (Chebyshev).

    From 0.001 to 1 at first. An interval that begins below 0.024 of its end is cut there, and the polynomial
    scaled so that the values of the whole interval lie evenly around 1.
    """
    low, high = 1e-3, 1.0
    for a, b, c in POLAR_EXPRESS[:-1]:
        cut = max(low, 0.02407327424182761 * high)
        root = math.sqrt(9 * b * b - 20 * a * c)
        top, bottom = (math.sqrt((-3 * b + sign * root) / (10 * c)) for sign in (-1, 1))
        assert cut < top < bottom < high
        values = [polynomial(s, a, b, c) for s in (cut, top, bottom, high)]
        assert values[::2] == pytest.approx([values[0]] * 2, rel=1e-6)
        assert values[1::2] == pytest.approx([values[1]] * 2, rel=1e-9)
        low, high = polynomial(low, a, b, c), values[1]
        assert low + high == pytest.approx(2) or values[0] + high == pytest.approx(2)
        low = 2 - high
    assert POLAR_EXPRESS[-1] == (15 / 8, -10 / 8, 3 / 8)  # their limit as the interval shrinks to 1


def test_a_batch_is_each_matrix_alone_and_the_transposed_the_transposed():
    matrices = torch.randn(5, 7, 16)
    found = orthogonalized(matrices)
    assert_close(found, torch.stack([orthogonalized(matrix) for matrix in matrices]))
    assert_close(orthogonalized(matrices.mT), found.mT)


def test_neither_scale_nor_zero_matters():
    matrix = torch.randn(6, 9)
    for scale in (1e-12, 1e12):
        assert_close(orthogonalized(scale * matrix), orthogonalized(matrix))
    assert_close(orthogonalized(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4), rtol=0, atol=0)
    assert orthogonalized(1e-30 * matrix).abs().max() < 1e-6


def test_the_precision_is_the_one_asked_for_and_float32_on_a_cpu():
    matrix = torch.randn(20, 30)
    exact = slow_orthogonalized(matrix, 5)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        found = orthogonalized(matrix, dtype=dtype)
        assert found.dtype == dtype
        assert (found - exact).norm() < 20 * torch.finfo(dtype).eps * exact.norm()
    assert orthogonalized(matrix.bfloat16()).dtype == orthogonalized(matrix).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_equal_the_slow_ones(dtype, momentum):
    error = 1000 * torch.finfo(dtype).eps  # the polynomials' slope at zero: what rounding grows by at most
    weights = parameters(dtype)
    slow = SlowMuon(weights, momentum, weight_decay=0.5)
    optimizer = Muon(weights, momentum=momentum, weight_decay=0.5)
    for step in range(6):
        before = [weight.detach().double().clone() for weight in weights]
        slow_before = list(slow.weights)
        train(optimizer, weights, range(step, step + 1))
        slow.step([weight.grad.double() for weight in weights], lr=0.05 / (1 + step))
        rows = zip(weights, before, slow.weights, slow_before, strict=True)
        for weight, start, slow_weight, slow_start in rows:
            change, expected = weight.double() - start, slow_weight - slow_start
            assert (change - expected).norm() < error * expected.norm()


def test_the_iteration_alone_is_in_the_precision_asked_for():
    weight = nn.Parameter(torch.randn(10, 6))
    before = weight.detach().clone()
    weight.grad = torch.randn(10, 6)
    Muon([weight], lr=0.05, momentum=0.9, weight_decay=0.0, dtype=torch.bfloat16).step()
    direction = orthogonalized(1.9 * weight.grad, dtype=torch.bfloat16).float()
    assert_close(weight.detach(), before - 0.05 * (10 / 6) ** 0.5 * direction)


def test_steps_equal_torchs_where_both_iterate_to_the_end():
    """A peer that works in bfloat16 with one polynomial: momentum, scale and decay are what is compared."""
    ours, theirs = parameters(), parameters()
    train(Muon(ours, num_steps=12, weight_decay=0.3), ours, range(5))
    peer = torch.optim.Muon(theirs, weight_decay=0.3, ns_coefficients=POLAR_EXPRESS[-1], ns_steps=30)
    train(peer, theirs, range(5))
    for our, their, start in zip(ours, theirs, parameters(), strict=True):
        assert (our - their).norm() < 10 * torch.finfo(torch.bfloat16).eps * (our - start).norm()


def test_a_matrix_does_not_depend_on_those_beside_it(monkeypatch):
    together, few, alone = parameters(torch.float64), parameters(torch.float64), parameters(torch.float64)
    train(Muon(together), together, range(3))
    monkeypatch.setattr(muon, "ELEMENTS_AT_ONCE", 200)  # one of 8 x 20
    train(Muon(few), few, range(3))
    for our, their in zip(together, few, strict=True):
        assert_close(our, their)
    train(Muon([{"params": [parameter]} for parameter in alone]), alone, range(3))
    for our, their in zip(together, alone, strict=True):
        assert_close(our, their)


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (32, 32)])
def test_the_learning_rate_is_the_change_of_the_outputs_whatever_the_shape(shape):
    """RMS of the change of W x over RMS of x, for random x: about lr for every shape."""
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = torch.randn(shape)
    Muon([weight], lr=0.1, weight_decay=0).step()
    x = torch.randn(1000, shape[1])
    ratio = (x @ weight.T).square().mean().sqrt() / x.square().mean().sqrt()
    assert ratio.item() == pytest.approx(0.1, rel=0.12)


def test_decay_does_not_depend_on_the_gradient():
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    weight.grad = torch.zeros(1, 2)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    assert_close(weight.detach(), torch.tensor([[0.95, -1.9]]))


def test_half_precision_weights_follow_float32_within_one_rounding_a_step():
    half = parameters(torch.bfloat16)
    whole = [nn.Parameter(parameter.detach().float()) for parameter in half]
    ours, theirs = Muon(half), Muon(whole)
    train(ours, half, range(1))
    for parameter, other in zip(half, whole, strict=True):
        other.grad = parameter.grad.float()
    for group in theirs.param_groups:
        group["lr"] = 0.05
    theirs.step()
    for our, their in zip(half, whole, strict=True):
        assert_close(our.detach(), their.detach().bfloat16(), rtol=0, atol=0)
        assert ours.state[our]["momentum_buffer"].dtype == torch.float32


def mixed(weights: list[Tensor]) -> Muon:
    """Muon for the matrices, AdamW for a matrix and vectors."""
    return Muon(
        [
            {"params": weights[:6], "algorithm": "muon"},
            {"params": weights[6:], "algorithm": "adamw", "betas": (0.8, 0.99)},
        ]
    )


MIXED_SHAPES = [*SHAPES, (7, 7), (5,)]


def test_a_group_that_says_so_has_adamw():
    ours, theirs = parameters(shapes=MIXED_SHAPES), parameters(shapes=MIXED_SHAPES)
    train(mixed(ours), ours, range(5))
    peer = torch.optim.AdamW(theirs[6:], betas=(0.8, 0.99), eps=1e-8, weight_decay=0.1)
    for step in range(5):
        train(peer, theirs, range(step, step + 1))
    for our, their in zip(ours[6:], theirs[6:], strict=True):
        assert_close(our, their)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_going_on_from_a_checkpoint_is_exact(dtype):
    straight = parameters(dtype, MIXED_SHAPES)
    train(mixed(straight), straight, range(6))

    first = nn.ParameterList(parameters(dtype, MIXED_SHAPES))
    optimizer = mixed(list(first))
    train(optimizer, list(first), range(4))
    file = io.BytesIO()
    save_checkpoint(first, optimizer, 4, file)
    saved = copy.deepcopy(optimizer.state_dict())
    second = nn.ParameterList(parameters(dtype, MIXED_SHAPES))
    resumed = mixed(list(second))
    file.seek(0)
    assert load_checkpoint(file, second, resumed) == 4
    state = resumed.state_dict()
    assert state["param_groups"] == saved["param_groups"]
    assert [sorted(names) for names in state["state"].values()] == [["momentum_buffer"]] * 6 + [
        ["exp_avg", "exp_avg_sq", "step"]
    ] * 2
    for key, names in saved["state"].items():
        for name, value in names.items():
            assert_close(state["state"][key][name], value, rtol=0, atol=0)
    train(resumed, list(second), range(4, 6))
    for our, their in zip(second, straight, strict=True):
        assert_close(our, their, rtol=0, atol=0)


def test_a_state_of_another_algorithm_is_refused_and_changes_nothing():
    weights, others = parameters(), parameters()
    ours, theirs = Muon(weights), AdamW(others)
    train(ours, weights, range(2))
    train(theirs, others, range(2))
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match=r"expected \['momentum_buffer'\] for a parameter, got \['exp_avg'"):
        ours.load_state_dict(theirs.state_dict())
    with pytest.raises(ValueError, match=r"got \['momentum_buffer'\]"):
        theirs.load_state_dict(ours.state_dict())
    assert ours.state_dict()["param_groups"] == before["param_groups"]
    for key, state in before["state"].items():
        momentum = ours.state_dict()["state"][key]["momentum_buffer"]
        assert_close(momentum, state["momentum_buffer"], rtol=0, atol=0)


def test_the_algorithm_stays_a_groups_own():
    ours = Muon(parameters())
    ours.load_state_dict(AdamW(parameters(), lr=0.25).state_dict())  # it never stepped: nothing to refuse
    group = ours.param_groups[0]
    assert (group["algorithm"], group["lr"], group["momentum"]) == ("muon", 0.25, 0.95)


def test_it_learns_a_linear_map():
    teacher, x = torch.randn(12, 20) / 20**0.5, torch.randn(400, 20)
    student = nn.Linear(20, 12, bias=False)
    optimizer = Muon(student.parameters(), weight_decay=0.0)

    def loss() -> Tensor:
        return (student(x) - x @ teacher.T).square().mean()

    start = loss().item()
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 100)
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 1e-3 * start


def test_a_parameter_without_gradient_is_left_alone():
    used, unused = parameters(shapes=[(4, 4), (4, 4)])
    before = unused.detach().clone()
    used.grad = torch.ones(4, 4)
    optimizer = Muon([used, unused])
    optimizer.step()
    assert_close(unused.detach(), before, rtol=0, atol=0)
    assert list(optimizer.state) == [used]


def test_a_sparse_gradient_is_refused():
    parameter = nn.Parameter(torch.ones(2, 2))
    parameter.grad = torch.sparse_coo_tensor([[0], [1]], [1.0], (2, 2), check_invariants=True)
    with pytest.raises(ValueError, match="Muon takes no sparse"):
        Muon([parameter]).step()


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": -1.0},
        {"weight_decay": math.nan},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"num_steps": 0},
        {"betas": (0.9, 1.0)},
    ],
)
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Muon(parameters(), **bad)
    with pytest.raises(ValueError, match=next(iter(bad))):
        Muon([{"params": parameters(), **bad}])


def test_what_muon_cannot_serve_is_refused():
    with pytest.raises(ValueError, match=r"expected two dimensions, got shape \(3,\)"):
        Muon(parameters(shapes=[(2, 2), (3,)]))
    with pytest.raises(ValueError, match='"muon" or "adamw"'):
        Muon([{"params": parameters(), "algorithm": "sgd"}])
    optimizer = Muon(parameters())
    with pytest.raises(ValueError, match="two dimensions"):
        optimizer.add_param_group({"params": parameters(shapes=[(3,)])})
    assert len(optimizer.param_groups) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_agrees():
    def optimizer(weights: list[Tensor]) -> Muon:
        groups = [{"params": weights[:6]}, {"params": weights[6:], "algorithm": "adamw"}]
        return Muon(groups, dtype=torch.float32)

    here = parameters(shapes=MIXED_SHAPES)
    there = [nn.Parameter(parameter.detach().cuda()) for parameter in here]
    ours, theirs = optimizer(here), optimizer(there)
    for step in range(5):
        train(ours, here, range(step, step + 1))
        for parameter, other in zip(here, there, strict=True):
            other.grad = parameter.grad.cuda()
        theirs.param_groups[0]["lr"] = theirs.param_groups[1]["lr"] = ours.param_groups[0]["lr"]
        theirs.step()
    for our, their in zip(here, there, strict=True):
        assert_close(our, their.cpu(), rtol=0, atol=1e-4)
    assert orthogonalized(there[0]).dtype == torch.bfloat16
