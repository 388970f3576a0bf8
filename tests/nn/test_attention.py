import pytest
import torch
from torch import nn
from torch.testing import assert_close

from transformerlm.nn import MultiHeadSelfAttention, RotaryPositionEmbedding


def test_equals_torch_multihead_attention():
    ours = MultiHeadSelfAttention(12, 3, backend="reference")
    theirs = nn.MultiheadAttention(12, 3, bias=False, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q_proj.weight, ours.k_proj.weight, ours.v_proj.weight]))
        theirs.out_proj.weight.copy_(ours.output_proj.weight)
    x = torch.randn(2, 7, 12)
    later = torch.ones(7, 7, dtype=torch.bool).triu(1)
    assert_close(ours(x), theirs(x, x, x, attn_mask=later, need_weights=False)[0])


def test_grouped_heads_equal_repeated_ones():
    grouped, full = MultiHeadSelfAttention(24, 6, 2), MultiHeadSelfAttention(24, 6)
    weights = grouped.state_dict()
    for name in ("k_proj.weight", "v_proj.weight"):
        weights[name] = weights[name].view(2, 4, 24).repeat_interleave(3, 0).reshape(24, 24)
    full.load_state_dict(weights)
    x = torch.randn(2, 5, 24)
    assert_close(grouped(x), full(x))


def test_without_rope_order_does_not_matter_and_with_it_does():
    x = torch.randn(1, 5, 16)
    swapped = x[:, [1, 0, 2, 3, 4]]
    plain = MultiHeadSelfAttention(16, 2)
    placed = MultiHeadSelfAttention(16, 2, rope=RotaryPositionEmbedding(100.0, 8, 5))
    assert_close(plain(x)[:, 4], plain(swapped)[:, 4])
    assert (placed(x)[:, 4] - placed(swapped)[:, 4]).abs().max() > 1e-3


def test_qk_norm_makes_the_size_of_queries_and_keys_irrelevant():
    attention, x = MultiHeadSelfAttention(16, 2, qk_norm=True, norm_eps=1e-12), torch.randn(2, 5, 16)
    before = attention(x)
    with torch.no_grad():
        attention.q_proj.weight.mul_(50)
        attention.k_proj.weight.mul_(0.1)
    assert_close(attention(x), before)


def test_any_leading_dimensions():
    attention, x = MultiHeadSelfAttention(16, 2, 1), torch.randn(2, 3, 5, 16)
    assert_close(attention(x), torch.stack([attention(part) for part in x]))


def test_members():
    attention = MultiHeadSelfAttention(24, 6, 2, qk_norm=True)
    shapes = {name: tuple(value.shape) for name, value in attention.state_dict().items()}
    assert shapes == {
        "q_proj.weight": (24, 24),
        "k_proj.weight": (8, 24),
        "v_proj.weight": (8, 24),
        "output_proj.weight": (24, 24),
        "q_norm.weight": (4,),
        "k_norm.weight": (4,),
    }


@pytest.mark.parametrize(("d_model", "num_heads", "num_kv_heads"), [(10, 3, None), (12, 6, 4)])
def test_sizes_that_do_not_divide_are_refused(d_model, num_heads, num_kv_heads):
    with pytest.raises(ValueError, match="divide"):
        MultiHeadSelfAttention(d_model, num_heads, num_kv_heads)


def test_gradient_reaches_every_weight():
    attention = MultiHeadSelfAttention(16, 4, 2, RotaryPositionEmbedding(100.0, 4, 6), qk_norm=True)
    attention(torch.randn(2, 6, 16)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in attention.parameters())
