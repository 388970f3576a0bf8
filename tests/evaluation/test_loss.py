import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.config import ModelConfig
from transformerlm.distributed.world import World
from transformerlm.evaluation.loss import MeanLoss, Validation, evaluate, rank_share
from transformerlm.nn import NextTokenLoss, TransformerLM, cross_entropy
from transformerlm.runtime import Runtime

RUNTIME = Runtime(torch.device("cpu"), torch.float32)


def test_every_target_counts_once_whatever_the_batches():
    torch.manual_seed(0)
    model = TransformerLM(
        ModelConfig(vocab_size=11, context_length=8, d_model=16, num_layers=1, num_heads=2, d_ff=16)
    )
    inputs, targets = torch.randint(11, (2, 5, 8))
    with torch.no_grad():
        log_probabilities = torch.log_softmax(model(inputs).double(), -1)
    expected = -log_probabilities.gather(-1, targets.unsqueeze(-1)).mean().item()
    loss = NextTokenLoss(model)
    whole = evaluate(loss, [(inputs, targets)], RUNTIME, tokens_per_byte=0.5)
    parts = evaluate(loss, [(inputs[:3], targets[:3]), (inputs[3:], targets[3:])], RUNTIME, 0.5)
    assert whole.loss == pytest.approx(expected, rel=1e-6)
    assert parts.loss == pytest.approx(expected, rel=1e-6)
    assert whole.perplexity == pytest.approx(math.exp(expected))
    assert whole.bits_per_byte == pytest.approx(expected / math.log(2) / 2)
    assert model.training


def test_a_uniform_guess_over_bytes_costs_eight_bits_per_byte():
    class Uniform(torch.nn.Module):
        def forward(self, inputs, targets):
            return cross_entropy(torch.zeros(*inputs.shape, 256), targets)

    ids = torch.randint(256, (2, 16))
    assert evaluate(Uniform(), [(ids, ids)], RUNTIME, tokens_per_byte=1.0).bits_per_byte == pytest.approx(8)


def test_a_validation_survives_being_made_plain():
    validation = Validation(500, MeanLoss(2.5, 1.25))
    assert Validation.from_plain(validation.to_plain()) == validation
    assert Validation.from_plain([]) is None


def test_a_hopeless_loss_has_an_infinite_perplexity():
    assert MeanLoss(1e4, 1e4).perplexity == math.inf


@given(st.integers(2, 400), st.integers(1, 17), st.integers(1, 5), st.integers(1, 9))
def test_ranks_share_all_targets_in_whole_windows_and_make_as_many_passes(num_tokens, length, batch, size):
    shares = [rank_share(num_tokens, length, batch, World(rank, size)) for rank in range(size)]
    targets = [target for first, last, _ in shares for target in range(first, last)]
    assert targets == list(range(num_tokens - 1))
    assert all(first % length == 0 for first, last, _ in shares if first < last)
    windows = [-(-(last - first) // length) for first, last, _ in shares]
    assert max(windows) - min(windows) <= 1
    passes = set()
    for first, last, idle in shares:
        starts = range(first, last, length)
        whole = sum(start + length <= last for start in starts)
        passes.add(len(range(0, whole, batch)) + len(starts) - whole + idle)
    assert len(passes) == 1
