"""Windows of context, and the memory of a batch; the texts of batches are tested in test_generate.py."""

import itertools

import pytest
import torch

from tests.model_options import TOGETHER
from transformerlm.infer import batch
from transformerlm.infer.batch import CachedBatch, window_start
from transformerlm.nn.fused import with_kernels


@pytest.mark.parametrize("context_length", [1, 2, 3, 4, 7, 16, 17])
def test_the_window_fills_up_jumps_to_its_newest_half_and_fills_up_again(context_length):
    start = 0
    for length in range(1, 10 * context_length):
        if length - start > context_length:
            start = length - max(1, context_length // 2)
        assert window_start(length, context_length) == start


@torch.inference_mode()
def logits_of(model, prompts, num_tokens):
    """A batch after some tokens, its logits before each of them, and the capacities that its cache had."""
    texts, found, capacities = CachedBatch(model, prompts, 10**9), [], []
    for token in range(num_tokens):
        found.append(texts.next_logits().clone())
        capacities.append(texts.cache.capacity)
        texts.append(torch.full((len(prompts),), token), [token] * len(prompts))
    return torch.stack(found), capacities


@pytest.mark.parametrize("kernels", [False, True])
def test_the_cache_grows_with_its_texts(make_model, monkeypatch, kernels):
    model = make_model(torch.float32, context_length=40)
    model = with_kernels(model) if kernels else model
    expected, at_once = logits_of(model, [[1, 2, 3], [4]], 60)
    monkeypatch.setattr(batch, "ROOM", 5)
    found, capacities = logits_of(model, [[1, 2, 3], [4]], 60)
    assert torch.equal(found, expected)
    assert [capacity for capacity, _ in itertools.groupby(at_once)] == [40]
    assert [capacity for capacity, _ in itertools.groupby(capacities)] == [8, 16, 32, 40]


PROMPTS = [[place * 7 % 61 for place in range(1 + at * 6)] for at in range(15)]
"""Of 1 to 85 tokens: short ones, which the kernel computes together, and long ones; 15 = 8 + 4 + 2 + 1."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape",
    [{}, {"d_model": 72, "num_heads": 2, "num_kv_heads": 1, "d_ff": 101, "qk_norm": True}, TOGETHER],
    ids=["plain", "other sizes", "all options"],
)
def test_with_kernels_a_texts_logits_are_to_the_last_bit_those_of_the_text_alone(make_model, dtype, shape):
    model = with_kernels(make_model(torch.float32, context_length=96, **shape).to(dtype))
    together, _ = logits_of(model, PROMPTS, 30)  # some outgrow the context
    for row in range(0, 15, 2):
        alone, _ = logits_of(model, PROMPTS[row : row + 1], 30)
        assert torch.equal(together[:, row], alone[:, 0])
    pair, _ = logits_of(model, [PROMPTS[3], PROMPTS[14], PROMPTS[3]], 30)
    assert torch.equal(pair, together[:, [3, 14, 3]])


def test_with_pytorchs_operations_they_are_those_of_the_text_alone_except_for_rounding(make_model):
    model = make_model(torch.float32, context_length=96)
    together, _ = logits_of(model, PROMPTS, 30)
    for row in range(0, 15, 2):
        alone, _ = logits_of(model, PROMPTS[row : row + 1], 30)
        torch.testing.assert_close(together[:, row], alone[:, 0])
