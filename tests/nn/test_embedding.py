import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from transformerlm.nn import Embedding


@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (2, 0)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_equals_torch_forward_and_backward(leading, dtype):
    layer = Embedding(4, 6)  # few rows: ids repeat, and their gradients add up
    ids = torch.randint(4, leading, dtype=dtype)
    ours, theirs = layer(ids), F.embedding(ids, layer.weight)
    assert_close(ours, theirs, rtol=0, atol=0)
    weight = torch.randn_like(ours)
    (our,) = torch.autograd.grad((ours * weight).sum(), layer.weight)
    (their,) = torch.autograd.grad((theirs * weight).sum(), layer.weight)
    assert_close(our, their)


@pytest.mark.parametrize("bad", [-1, 4])
def test_an_id_outside_is_an_error(bad):
    with pytest.raises(IndexError):
        Embedding(4, 6)(torch.tensor([0, bad]))


def test_standard_deviation_is_one():
    weight = Embedding(500, 300).weight.detach()
    assert weight.std().item() == pytest.approx(0.9866, rel=0.01)  # what the cut at 3 leaves of 1
    assert weight.abs().max() <= 3


def test_representation():
    assert repr(Embedding(4, 6)) == "Embedding(num_embeddings=4, embedding_dim=6)"
