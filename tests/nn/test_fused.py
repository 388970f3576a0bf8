"""The CPU's kernels against the plain mathematics: forward, backward, whole models, whole trainings."""

import math

import pytest
import torch
from torch import nn

from tests.model_options import TOGETHER, with_biases
from transformerlm.config import ModelConfig
from transformerlm.kernels import dispatch
from transformerlm.nn import (
    NextTokenLoss,
    RMSNorm,
    RotaryPositionEmbedding,
    SwiGLU,
    TransformerLM,
    cross_entropy,
    fused,
    fused_functions,
    scaled_dot_product_attention,
)
from transformerlm.nn.functional import rms_norm, silu
from transformerlm.nn.loss import nats_and_gradient_
from transformerlm.optim import AdamW, clip_grad_norm_, parameter_groups

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: {"rtol": 2e-6, "atol": 2e-6}, torch.bfloat16: {"rtol": 1.6e-2, "atol": 1e-2}}
"""Of bfloat16: two of its steps, for what is rounded once more on the way."""


def compare(fast, slow, inputs, dtype, widths=1.0):
    """Values and gradients of `fast`, against those of `slow` on the same numbers in float64."""
    ours = [x.clone().requires_grad_() for x in inputs]
    exact = [x.double().requires_grad_() for x in inputs]
    got, expected = fast(*ours), slow(*exact)
    torch.testing.assert_close(got.double(), expected, **TOLERANCE[dtype])
    upper = torch.randn_like(expected).to(got.dtype)
    got_gradients = torch.autograd.grad(got, ours, upper)
    expected_gradients = torch.autograd.grad(expected, exact, upper.double())
    for x, y in zip(got_gradients, expected_gradients, strict=True):
        # What a gradient's largest parts are sets how exact its small ones can be: they are sums.
        tolerance = TOLERANCE[dtype]["rtol"] * widths
        torch.testing.assert_close(x.double(), y, rtol=tolerance, atol=tolerance * y.abs().max().item())


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("width", [5, 8, 33, 384])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm(dtype, width, num_threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    x, weight = torch.randn(3, 5, width).to(dtype), torch.rand(width) + 0.5

    def fast(x, weight):
        return fused_functions.rms_norm(x, weight, 1e-5, dtype)

    compare(fast, lambda x, weight: rms_norm(x, weight, 1e-5), [x, weight], dtype)


def test_under_autocast_the_norm_gives_what_the_next_product_takes():
    norm, x = fused.with_kernels(RMSNorm(32)), torch.randn(4, 32)
    with torch.autocast("cpu", torch.bfloat16):
        got = norm(x)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, rms_norm(x, norm.weight, norm.eps).bfloat16())
    assert norm(x).dtype == torch.float32


@pytest.mark.parametrize("width", [1, 8, 31, 344])
@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu(dtype, width):
    gate_up = (4 * torch.randn(3, 5, 2 * width)).to(dtype)

    def slowly(x):
        gate, up = x.chunk(2, -1)
        return silu(gate) * up

    compare(fused_functions.swiglu, slowly, [gate_up], dtype)


def test_swiglu_far_out():
    gate = torch.tensor([-1e30, -200.0, -88.0, 0.0, 88.0, 200.0, 1e30])
    got = fused_functions.swiglu(torch.cat([gate, torch.ones(7)]))
    torch.testing.assert_close(got, silu(gate), atol=1e-30, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotate_reads_any_strides_and_leaves_heads_first(dtype):
    rope = RotaryPositionEmbedding(10000.0, 12, 50)
    cos, sin = rope.cos[:7], rope.sin[:7]
    projected = torch.randn(2, 7, 3 * 12).to(dtype)

    def slowly(x):
        even, odd = x.view(2, 7, 3, 12).transpose(1, 2).unflatten(-1, (-1, 2)).unbind(-1)
        c, s = cos.double(), sin.double()
        return torch.stack((even * c - odd * s, even * s + odd * c), -1).flatten(-2)

    compare(
        lambda x: fused_functions.rotate(x.view(2, 7, 3, 12).transpose(1, 2), cos, sin),
        slowly,
        [projected],
        dtype,
    )
    assert fused_functions.rotate(projected.view(2, 7, 3, 12).transpose(1, 2), cos, sin).is_contiguous()


@pytest.mark.parametrize("shape", [(2, 4, 4, 7, 8), (1, 6, 2, 64, 16), (3, 4, 1, 33, 10), (2, 2, 2, 100, 32)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scores_bytes", [1, 2**20])
def test_attention(dtype, shape, scores_bytes, monkeypatch):
    monkeypatch.setattr(fused_functions, "SCORES_BYTES", scores_bytes)
    batch, heads, kv_heads, times, width = shape
    q, k, v = (torch.randn(batch, h, times, width).to(dtype) for h in (heads, kv_heads, kv_heads))
    compare(
        fused_functions.attention,
        lambda q, k, v: scaled_dot_product_attention(q, k, v, causal=True),
        [q, k, v],
        dtype,
        3,
    )


def test_attention_with_scores_that_are_far_apart():
    q, k, v = (torch.randn(1, 1, 40, 8) for _ in range(3))
    q, k = q * 100, k * 100
    got = fused_functions.attention(q, k, v)
    expected = scaled_dot_product_attention(q.double(), k.double(), v.double(), causal=True)
    torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=1e-3)  # scores of 1e5 in float32


def test_attention_is_causal_to_the_bit():
    q, k, v = (torch.randn(1, 2, 40, 8) for _ in range(3))
    before = fused_functions.attention(q, k, v)
    for x in (q, k, v):
        x[:, :, 20:] = 1e4
    assert torch.equal(fused_functions.attention(q, k, v)[:, :, :20], before[:, :, :20])


@pytest.mark.parametrize("gap", [0, 4, 8, 16, 32, 1000])
def test_the_bits_do_not_depend_on_where_memory_lies(gap):
    rows, times = 2 * 40, 40
    numbers = torch.randn(2 * rows * times)

    def run(gap):
        """Everything that the kernel writes, with so many numbers between its arrays."""
        sizes = {"scores": rows * times, "grad": rows * times, "log_sums": rows, "scratch": 2 * times}
        memory, start, arrays = torch.zeros(sum(sizes.values()) + 4 * gap), 0, []
        for size in sizes.values():
            arrays.append(memory[start : start + size])
            start += size + gap
        scores, grad, log_sums, scratch = arrays
        scores.copy_(numbers[: rows * times])
        grad.copy_(numbers[rows * times : 2 * rows * times])
        shape = rows, times, 0, times, 0.3
        dispatch.run("attend", (torch.float32,), scores, log_sums, scratch, *shape)
        first = scores.clone()
        dispatch.run("attend_back", (torch.float32,), scores, grad, log_sums, scratch, *shape)
        return torch.cat([first, scores, grad, log_sums])

    assert torch.equal(run(gap), run(10_000))


@pytest.mark.parametrize("vocab_size", [2, 65, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy(dtype, vocab_size):
    logits, targets = (5 * torch.randn(50, vocab_size)).to(dtype), torch.randint(vocab_size, (50,))
    exact = logits.double().requires_grad_()
    expected = cross_entropy(exact, targets)
    (gradient,) = torch.autograd.grad(expected, exact)
    plain = logits.clone()
    slowly = nats_and_gradient_(plain, targets, 1 / 50)
    for got in (slowly, fused.nats_and_gradient_(logits, targets, 1 / 50)):
        torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=0)
    for got in (plain, logits):
        torch.testing.assert_close(
            got.double(), gradient, rtol=TOLERANCE[dtype]["rtol"] / 2, atol=1e-8
        )  # of 1 / 50


def test_a_loss_that_is_not_finite_is_not_hidden():
    for value in (math.nan, math.inf):
        logits = torch.randn(3, 40)
        logits[1, 7] = value
        assert not fused.nats_and_gradient_(logits, torch.tensor([1, 2, 3]), 1.0).isfinite()


SIZES = {"vocab_size": 97, "context_length": 48, "d_model": 48, "num_layers": 2, "num_heads": 4, "d_ff": 120}
SHAPES = {
    "plain": ModelConfig(**SIZES),
    "grouped, tied, normed": ModelConfig(**SIZES, num_kv_heads=2, tie_embeddings=True, qk_norm=True),
    "all options": ModelConfig(**SIZES, num_kv_heads=2, **TOGETHER),
}


def gradients(config, dtype, choice):
    torch.manual_seed(0)
    model = with_biases(TransformerLM(config))
    loss_of, ids = NextTokenLoss(model), torch.randint(97, (3, 49))
    if choice:
        fused.use_kernels_(loss_of)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = loss_of(ids[:, :-1], ids[:, 1:])
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_whole_model(shape, dtype):
    (loss, grads), (expected, expected_grads) = (gradients(SHAPES[shape], dtype, on) for on in (True, False))
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2e-3}[dtype]
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=0)
    for name, grad in grads.items():
        error = (grad - expected_grads[name]).norm() / expected_grads[name].norm()
        assert error < {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype], name


def losses(dtype, choice, steps=50):
    torch.manual_seed(0)
    model = TransformerLM(SHAPES["plain"])
    loss_of, optimizer = NextTokenLoss(model), AdamW(parameter_groups(model, 0.1), lr=3e-3, kernels=choice)
    if choice:
        fused.use_kernels_(loss_of)
    found = []
    for _ in range(steps):
        ids = torch.randint(97, (4, 49)).cumsum(-1) % 97  # each token tells something of the next
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = loss_of(ids[:, :-1], ids[:, 1:])
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return torch.tensor(found)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_fifty_steps_have_the_same_losses(dtype):
    fast, slow = losses(dtype, True), losses(dtype, False)
    assert not torch.equal(fast, slow), "the kernels were not used"
    torch.testing.assert_close(fast, slow, rtol={torch.float32: 1e-4, torch.bfloat16: 5e-3}[dtype], atol=0)
    assert torch.equal(losses(dtype, True), fast), "not the same bits again"


def test_what_kernels_cannot_take_runs_in_plain_operations():
    module = nn.Sequential(RMSNorm(16, dtype=torch.float64), SwiGLU(16, 40, dtype=torch.float64))
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    assert torch.equal(fused.with_kernels(module)(x), module(x))


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_and_names_stay_those_of_the_model(shape):
    loss = NextTokenLoss(TransformerLM(SHAPES[shape]))
    before, state = dict(loss.named_parameters()), list(loss.state_dict())
    view = fused.with_kernels(loss)
    assert not fused.uses_kernels(loss)
    fused.use_kernels_(loss)
    for module in (loss, view):
        assert fused.uses_kernels(module)
        assert list(module.state_dict()) == state
        assert all(parameter is before[name] for name, parameter in module.named_parameters())
    ropes = [block.attention.rope for block in view.model.blocks if block.attention.rope is not None]
    assert all(rope is ropes[0] for rope in ropes)
