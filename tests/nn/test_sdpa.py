import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from transformerlm.errors import ConfigError
from transformerlm.nn import resolve_backend, scaled_dot_product_attention
from transformerlm.nn.sdpa import BACKENDS, causal_mask

every_backend = pytest.mark.parametrize("backend", sorted(BACKENDS))


def one_query_at_a_time(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """[heads, queries, d] by loops in float64: the definition as a person would write it."""
    group_size = q.shape[0] // k.shape[0]
    result = torch.zeros(*q.shape[:2], v.shape[2], dtype=torch.float64)
    for head, query in torch.cartesian_prod(*map(torch.arange, q.shape[:2])).tolist():
        keys = [key for key in range(k.shape[1]) if visible[query, key]]
        terms = [
            math.exp(q[head, query].double() @ k[head // group_size, key].double() / q.shape[2] ** 0.5)
            for key in keys
        ]
        for key, term in zip(keys, terms, strict=True):
            result[head, query] += term / sum(terms) * v[head // group_size, key].double()
    return result


@every_backend
@given(
    kv_heads=st.integers(1, 3),
    group_size=st.integers(1, 3),
    queries=st.integers(1, 5),
    cached=st.integers(0, 4),
    causal=st.booleans(),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_definition(backend, kv_heads, group_size, queries, cached, causal, masked, seed):
    generator = torch.Generator().manual_seed(seed)
    keys = queries + cached
    q = torch.randn(kv_heads * group_size, queries, 4, generator=generator)
    k, v = torch.randn(2, kv_heads, keys, 4, generator=generator)
    mask = torch.rand(queries, keys, generator=generator) < 0.6 if masked else None
    visible = torch.ones(queries, keys, dtype=torch.bool) if mask is None else mask
    if causal:
        visible = visible & torch.tensor(
            [[key - cached <= query for key in range(keys)] for query in range(queries)]
        )
    ours = scaled_dot_product_attention(q, k, v, mask, causal=causal, backend=backend)
    assert_close(ours, one_query_at_a_time(q, k, v, visible).float(), rtol=1e-5, atol=1e-5)


@every_backend
@pytest.mark.parametrize("leading", [(), (3,), (2, 4), (2, 3, 4)])
def test_any_leading_dimensions(backend, leading):
    q, k, v = torch.randn(*leading, 5, 6), torch.randn(*leading, 7, 6), torch.randn(*leading, 7, 9)
    together = scaled_dot_product_attention(q, k, v, causal=True, backend=backend)
    assert together.shape == (*leading, 5, 9)
    alone = [
        scaled_dot_product_attention(*parts, causal=True)
        for parts in zip(*(x.reshape(-1, *x.shape[-2:]) for x in (q, k, v)), strict=True)
    ]
    assert_close(together.reshape(-1, 5, 9), torch.stack(alone))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["plain", "causal", "cached", "mask", "grouped"])
def test_backends_agree_forward_and_backward(dtype, kind):
    shape = (2, 4, 12, 16)
    q = torch.randn(*shape[:2], 5, 16) if kind == "cached" else torch.randn(shape)
    k, v = torch.randn(2, *((2, 2, 12, 16) if kind == "grouped" else shape))
    mask = torch.rand(2, 1, 12, 12) < 0.5 if kind == "mask" else None
    weight = torch.randn(q.shape)

    def run(backend: str) -> list[Tensor]:
        inputs = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        mixed = scaled_dot_product_attention(*inputs, mask, causal=kind != "plain", backend=backend)
        return [mixed, *torch.autograd.grad((mixed * weight).sum(), inputs)]

    half = dtype in (torch.float16, torch.bfloat16)
    # Both round at every step of a half-precision product: a few of its last digits.
    tolerance = {"rtol": 0.0, "atol": 16 * torch.finfo(dtype).eps} if half else {}
    for ours, theirs in zip(run("reference"), run("torch"), strict=True):
        assert_close(ours, theirs, **tolerance)


@every_backend
def test_a_query_without_keys_gets_zeros_and_finite_gradients(backend):
    q, k, v = (torch.randn(2, 3, 4, requires_grad=True) for _ in range(3))
    mask = torch.tensor([[True, True, False], [False, False, False], [True, False, True]])
    mixed = scaled_dot_product_attention(q, k, v, mask, backend=backend)
    assert mixed[:, 1].abs().max() == 0
    for gradient in torch.autograd.grad(mixed.square().sum(), (q, k, v)):
        assert gradient.isfinite().all()
    assert mixed[:, [0, 2]].abs().min() > 0


@every_backend
def test_large_scores_stay_finite(backend):
    q = 200 * torch.randn(2, 4, 8)
    assert scaled_dot_product_attention(q, q, q, causal=True, backend=backend).isfinite().all()


def test_causal_mask_puts_the_last_query_at_the_last_key():
    assert causal_mask(2, 4).tolist() == [[True, True, True, False], [True, True, True, True]]


@every_backend
def test_a_mask_that_is_not_boolean_is_refused(backend):
    q = torch.randn(2, 3, 4)
    with pytest.raises(ValueError, match="mask: expected"):
        scaled_dot_product_attention(q, q, q, torch.zeros(3, 3), backend=backend)


@every_backend
def test_heads_that_do_not_divide_are_refused(backend):
    q, k = torch.randn(4, 3, 8), torch.randn(3, 3, 8)
    with pytest.raises(ValueError, match="divisor"):
        scaled_dot_product_attention(q, k, k, backend=backend)


def test_an_unknown_backend_is_refused():
    q = torch.randn(2, 3, 4)
    with pytest.raises(ConfigError, match="flash9"):
        scaled_dot_product_attention(q, q, q, backend="flash9")
    with pytest.raises(ConfigError, match="flash9"):
        resolve_backend("flash9", "cpu")


def test_auto_resolves_to_a_backend_that_exists():
    assert resolve_backend("auto", "cpu") in BACKENDS
    assert all(resolve_backend(name, "cpu") == name for name in BACKENDS)
