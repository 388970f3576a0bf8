import torch
import torch.nn.functional as F
from torch.testing import assert_close

from transformerlm.nn import SwiGLU


def test_equals_the_formula():
    layer = SwiGLU(6, 10, dtype=torch.float64)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    gate, up = x @ layer.w1.weight.T, x @ layer.w3.weight.T
    assert_close(layer(x), (F.silu(gate) * up) @ layer.w2.weight.T)


def test_shapes_of_the_weights():
    shapes = {name: tuple(value.shape) for name, value in SwiGLU(6, 10).state_dict().items()}
    assert shapes == {"w1.weight": (10, 6), "w2.weight": (6, 10), "w3.weight": (10, 6)}


def test_works_on_each_position_by_itself():
    layer, x = SwiGLU(6, 10, dtype=torch.float64), torch.randn(4, 5, 6, dtype=torch.float64)
    alone = torch.stack([layer(x[:, position]) for position in range(5)], dim=1)
    assert_close(layer(x), alone)
