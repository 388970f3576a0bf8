import pytest
import torch
from torch import nn

from transformerlm.config import ModelConfig
from transformerlm.nn import TransformerLM
from transformerlm.optim import AdamW, parameter_groups


@pytest.mark.parametrize("tied", [False, True])
def test_matrices_decay_gains_do_not_and_each_parameter_is_there_once(tied):
    config = ModelConfig(
        vocab_size=50, d_model=16, num_heads=2, d_ff=24, num_layers=2, tie_embeddings=tied, qk_norm=True
    )
    model = TransformerLM(config)
    decaying, others = parameter_groups(model, 0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all("norm" in named[id(parameter)] for parameter in others["params"])
    assert not any("norm" in named[id(parameter)] for parameter in decaying["params"])
    grouped = [id(parameter) for group in (decaying, others) for parameter in group["params"]]
    assert sorted(grouped) == sorted(named)


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
