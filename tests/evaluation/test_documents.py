import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch

from transformerlm.config import EvalSection, ModelConfig
from transformerlm.errors import ConfigError, NumericalError
from transformerlm.evaluation.documents import Mixture, block_nats, stride_of, target_nats
from transformerlm.evaluation.windows import remembering, windows
from transformerlm.ngrams import NgramIndex, NgramMemory
from transformerlm.ngrams.reference import probabilities_along
from transformerlm.nn import TransformerLM
from transformerlm.nn import loss as loss_module
from transformerlm.nn.fused import with_kernels
from transformerlm.runtime import Runtime

RUNTIME = Runtime(torch.device("cpu"), torch.float32)
CONTEXT_LENGTH = 8


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    shape = ModelConfig(vocab_size=19, context_length=8, d_model=16, num_layers=2, num_heads=2, d_ff=24)
    model = TransformerLM(shape, dtype=torch.float64)
    for parameter in model.parameters():  # logits as far apart as those of a model that has learned
        parameter.data *= 2
    return model.eval()


def ids_of(length, seed=0):
    return np.random.default_rng(seed).integers(19, size=length).astype(np.uint16)


def one_by_one(model, ids, context_length, stride):
    """Nats of each target, each by a pass of its own over the context that it should have."""
    nats = []
    for target in range(1, len(ids)):
        # The first window that the target is in.
        first = max(0, math.ceil((target - context_length) / stride)) * stride
        context = torch.from_numpy(ids[first:target].astype(np.int64))
        with torch.no_grad():
            log_probabilities = torch.log_softmax(model(context[None])[0, -1], -1)
        nats.append(-log_probabilities[int(ids[target])].item())
    return nats


def nats_in_order(model, batch, runtime=RUNTIME):
    return np.concatenate(target_nats(model, batch, runtime))


@pytest.mark.parametrize("stride", [1, 3, 4, 8])
@pytest.mark.parametrize("length", [2, 8, 9, 10, 30])
def test_nats_are_those_of_each_token_by_itself(model, length, stride):
    ids = ids_of(length)
    batch = list(windows(0, [ids], CONTEXT_LENGTH, stride))
    expected = one_by_one(model, ids, CONTEXT_LENGTH, stride)
    assert nats_in_order(model, batch) == pytest.approx(expected, rel=1e-12)


def test_documents_do_not_see_each_other_whatever_they_are_batched_with(model):
    lengths = [2, 30, 5, 9, 3, 3, 17, 2, 8]
    texts = [ids_of(length, seed) for seed, length in enumerate(lengths)]
    every = [w for number, ids in enumerate(texts) for w in windows(number, [ids], CONTEXT_LENGTH, 4)]
    expected = [sum(one_by_one(model, ids, CONTEXT_LENGTH, 4)) for ids in texts]
    for batch_size in (1, 2, 5, 100):
        nats = np.zeros(len(texts))
        found = block_nats(model, every, batch_size * CONTEXT_LENGTH, RUNTIME)
        for window, own in zip(every, found, strict=True):
            assert len(own) == window.num_targets
            nats[window.document] += own.sum()
        np.testing.assert_allclose(nats, expected, rtol=1e-12)


def test_logits_in_pieces_are_the_same(model, monkeypatch):
    batch = list(windows(0, [ids_of(40)], CONTEXT_LENGTH, 4))
    whole = nats_in_order(model, batch)
    monkeypatch.setitem(loss_module.CHUNK_BYTES, "cpu", 5 * 19 * 4)
    np.testing.assert_allclose(nats_in_order(model, batch), whole, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_of_training_come_to_the_same(model, dtype):
    narrow = TransformerLM(model.config)
    narrow.load_state_dict(model.state_dict())
    batch = list(windows(0, [ids_of(200)], CONTEXT_LENGTH, 4))
    exact, runtime = nats_in_order(model, batch).sum(), Runtime(torch.device("cpu"), dtype)
    found = nats_in_order(with_kernels(narrow), batch, runtime).sum()
    assert found == pytest.approx(exact, rel=1e-6 if dtype == torch.float32 else 1e-2)


def test_the_memory_of_n_grams_is_mixed_in_whatever_the_windows_and_parts(model):
    training, ids = ids_of(300, seed=1), ids_of(60, seed=2)
    ids[10:30], ids[40:58] = training[50:70], ids[3:21]  # found in the training text, and earlier in this one
    memory = NgramMemory(NgramIndex.build([training], 19))
    found = []
    for stride, cuts in ((4, (0, 60)), (4, (0, 1, 1, 33, 60)), (8, (0, 17, 60))):
        parts = [ids[first:last] for first, last in itertools.pairwise(cuts)]
        cut = partial(windows, 0, context_length=CONTEXT_LENGTH, stride=stride)
        batch = list(remembering(cut, parts, memory.text()))
        mixture, own = Mixture(), target_nats(model, batch, RUNTIME)
        nats = np.concatenate([mixture.nats(*pair) for pair in zip(batch, own, strict=True)])
        alone = [math.exp(-value) for value in one_by_one(model, ids, CONTEXT_LENGTH, stride)]
        expected = probabilities_along(training.tolist(), ids.tolist(), alone)
        assert np.exp(-nats) == pytest.approx(expected, rel=1e-5)
        found.append(nats)
    assert found[0].tolist() == found[1].tolist()


def test_a_model_of_no_numbers_is_told(model):
    broken = TransformerLM(model.config)
    broken.final_norm.weight.data[3] = math.nan
    with pytest.raises(NumericalError, match="not numbers"):
        target_nats(broken, list(windows(0, [ids_of(5)], CONTEXT_LENGTH, 4)), RUNTIME)


def test_a_stride_is_half_of_the_context_and_leaves_no_gaps():
    assert [stride_of(EvalSection(), length) for length in (1, 2, 7, 256)] == [1, 1, 3, 128]
    assert stride_of(EvalSection(stride=8), 8) == 8
    with pytest.raises(ConfigError, match=r"^\[eval\].stride: .* context_length = 8, got 9"):
        stride_of(EvalSection(stride=9), 8)
