import pytest
import torch
from torch import nn
from torch.testing import assert_close

from transformerlm.config import ModelConfig, OptimizerConfig
from transformerlm.nn import TransformerLM
from transformerlm.optim import AdamW, Muon, make_optimizer, parameter_groups

HIDDEN = [
    f"blocks.{layer}.{name}.weight"
    for layer in range(2)
    for name in (
        *(f"attention.{letter}_proj" for letter in "qkv"),
        "attention.output_proj",
        *(f"feedforward.w{number}" for number in (1, 2, 3)),
    )
]


def small_model(tied: bool = False) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(
        ModelConfig(
            vocab_size=50, d_model=16, num_heads=2, d_ff=24, num_layers=2, tie_embeddings=tied, qk_norm=True
        )
    )


def names_in(model: nn.Module, group: dict) -> list[str]:
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [name_of[id(parameter)] for parameter in group["params"]]


def train(model: TransformerLM, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for step in range(steps):
        ids = torch.randint(50, (4, 8), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()


@pytest.mark.parametrize("tied", [False, True])
def test_matrices_decay_gains_do_not_and_each_parameter_is_there_once(tied):
    model = small_model(tied)
    decaying, others = parameter_groups(model, 0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert all("norm" in name for name in names_in(model, others))
    assert not any("norm" in name for name in names_in(model, decaying))
    grouped = [*names_in(model, decaying), *names_in(model, others)]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())


def test_only_the_gains_lack_decay_in_the_optimizer():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizer = AdamW(parameter_groups(model, 0.5), lr=0.1, weight_decay=0.2)
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert model[0].weight.flatten()[0].item() == pytest.approx(0.95)
    assert {parameter.flatten()[0].item() for parameter in (model[0].bias, *model[1].parameters())} == {1.0}


def test_a_group_that_would_be_empty_is_left_out():
    assert [group["weight_decay"] for group in parameter_groups(nn.Linear(2, 2, bias=False), 0.1)] == [0.1]
    optimizer = make_optimizer(nn.Linear(2, 2), OptimizerConfig(name="muon"))
    assert [group["algorithm"] for group in optimizer.param_groups] == ["adamw", "adamw"]


@pytest.mark.parametrize("tied", [False, True])
def test_muon_has_the_matrices_of_the_blocks_and_adamw_the_rest(tied):
    model = small_model(tied)
    config = OptimizerConfig(
        name="muon", lr=0.003, muon_lr=0.04, muon_momentum=0.8, betas=(0.7, 0.8), weight_decay=0.2
    )
    hidden, matrices, gains = make_optimizer(model, config).param_groups
    assert sorted(names_in(model, hidden)) == sorted(HIDDEN)
    # The head's matrix is the embedding's where they are tied, and is found under that name.
    assert names_in(model, matrices) == (
        ["embedding.weight"] if tied else ["embedding.weight", "head.weight"]
    )
    grouped = [name for group in (hidden, matrices, gains) for name in names_in(model, group)]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())
    algorithms = [(group["algorithm"], group["lr"], group["peak_lr"]) for group in (hidden, matrices, gains)]
    assert algorithms == [("muon", 0.04, 0.04), ("adamw", 0.003, 0.003), ("adamw", 0.003, 0.003)]
    assert [group["weight_decay"] for group in (hidden, matrices, gains)] == [0.2, 0.2, 0.0]
    assert hidden["momentum"] == 0.8
    assert matrices["betas"] == gains["betas"] == (0.7, 0.8)


def test_each_optimizer_is_what_one_makes_by_hand():
    config = OptimizerConfig(lr=0.01, muon_lr=0.03, weight_decay=0.2)
    ours, theirs = small_model(), small_model()
    train(ours, make_optimizer(ours, config))
    groups = [{**group, "lr": 0.01} for group in parameter_groups(theirs, 0.2)]
    train(theirs, torch.optim.AdamW(groups, betas=(0.9, 0.95)))
    assert_models_close(ours, theirs)

    ours, theirs = small_model(), small_model()
    train(ours, make_optimizer(ours, config.__class__(name="muon", lr=0.01, muon_lr=0.03, weight_decay=0.2)))
    hidden = [parameter for name, parameter in theirs.named_parameters() if name in HIDDEN]
    rest = [parameter for name, parameter in theirs.named_parameters() if name not in HIDDEN]
    decay = [0.2 if parameter.dim() > 1 else 0.0 for parameter in rest]
    by_hand = [
        Muon(hidden, lr=0.03, weight_decay=0.2),
        *(
            torch.optim.AdamW([parameter], lr=0.01, betas=(0.9, 0.95), weight_decay=share)
            for parameter, share in zip(rest, decay, strict=True)
        ),
    ]
    train(theirs, Together(by_hand))
    assert_models_close(ours, theirs)


class Together:
    """Several optimizers as one."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


def assert_models_close(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, our), their in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert_close(our, their, msg=lambda text, name=name: f"{name}: {text}")


def test_a_state_of_the_other_optimizer_is_refused():
    model = small_model()
    adamw, muon = (make_optimizer(model, OptimizerConfig(name=name)) for name in ("adamw", "muon"))
    with pytest.raises(ValueError, match=r"expected groups of \[16, 9\] parameters, got \[14, 2, 9\]"):
        adamw.load_state_dict(muon.state_dict())


def test_the_precision_of_muons_iteration_is_passed_on():
    config = OptimizerConfig(name="muon")
    assert make_optimizer(small_model(), config, torch.bfloat16).dtype == torch.bfloat16
    assert make_optimizer(small_model(), config).dtype is None
