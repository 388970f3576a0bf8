"""Batches from several corpora."""

import hashlib

import numpy as np
import pytest
import torch

from transformerlm.config import TrainingConfig
from transformerlm.data import TokenData, TokenFile, TokenGroup, TokenWriter, make_sampler
from transformerlm.data.interleave import Interleaving
from transformerlm.data.mixture_sampler import SEED_STEP, MixtureSampler
from transformerlm.data.sampler import BatchSampler
from transformerlm.errors import ConfigError, DataError

SIZES, SHARES = (700, 90, 33), (0.5, 0.3, 0.2)
TOKENS = [np.arange(size, dtype=np.uint16) + 1000 * number for number, size in enumerate(SIZES)]
"""The thousands of a token say which corpus it is of, the rest at which position."""


def sampler(seed=3, order="epoch", batch_size=4) -> MixtureSampler:
    return MixtureSampler(TOKENS, SHARES, batch_size, 8, order, seed)


def batches(steps, **settings):
    own = sampler(**settings)
    return torch.stack([own.batch(step)[0] for step in steps])


def one_by_one(number, seed=3):
    """The sequences of the order "epoch", drawn one after the other."""
    corpora, _ = Interleaving(SHARES).corpora(0, number)
    windows = [BatchSampler(own, 1, 8, "epoch", seed + i * SEED_STEP) for i, own in enumerate(TOKENS)]
    drawn = [0] * len(TOKENS)
    for corpus in corpora.tolist():
        yield windows[corpus].batch(drawn[corpus])[0][0].tolist()
        drawn[corpus] += 1


def test_each_sequence_is_the_next_of_its_corpus():
    found = batches(range(300)).flatten(0, 1)
    assert found.tolist() == list(one_by_one(1200))


@pytest.mark.parametrize("order", ["epoch", "random"])
def test_a_batch_is_a_function_of_seed_and_step(order):
    straight = batches(range(60), order=order)
    assert torch.equal(straight[40:], batches(range(40, 60), order=order))
    assert torch.equal(straight.flip(0), batches(range(59, -1, -1), order=order))
    assert not torch.equal(straight, batches(range(60), order=order, seed=4))
    assert torch.equal(batches([10**7], order=order), batches([10**7], order=order))


@pytest.mark.parametrize("order", ["epoch", "random"])
def test_targets_follow_inputs_in_their_corpus(order):
    own = sampler(order=order)
    for step in range(200):
        inputs, targets = own.batch(step)
        sizes = torch.tensor(SIZES)[inputs // 1000]
        assert torch.equal(targets, inputs // 1000 * 1000 + (inputs % 1000 + 1) % sizes)
        assert inputs.dtype == targets.dtype == torch.int64


def test_the_shares_of_ranks_are_the_batch():
    own = sampler(batch_size=12)
    for step in (0, 7, 500):
        whole = own.batch(step)
        parts = [sampler(batch_size=12).batch(step, rank, 3) for rank in range(3)]
        for k in range(2):
            assert torch.equal(torch.cat([part[k] for part in parts]), whole[k])
    with pytest.raises(ConfigError):
        own.batch(0, 0, 5)


def test_what_was_drawn_is_counted():
    own, counts = sampler(), np.zeros(3, np.int64)
    for step in range(100):
        assert own.drawn(step).tolist() == counts.tolist()
        counts += np.bincount(own.batch(step)[0][:, 0] // 1000, minlength=3)
    # 400 sequences, of 3 corpora: within one of the shares
    assert np.abs(counts - 400 * np.array(SHARES)).max() <= 1


def test_in_a_pass_every_window_of_a_corpus_occurs_once():
    own = sampler()
    firsts = [[] for _ in SIZES]
    for inputs in batches(range(200)).flatten(0, 1).tolist():
        firsts[inputs[0] // 1000].append(inputs[0] % 1000)
    for number, found in enumerate(firsts):
        windows = SIZES[number] // 8
        assert len(found) > windows or number == 0
        for start in range(0, len(found) - windows + 1, windows):
            assert len(set(found[start : start + windows])) == windows
    assert own.corpora[0].num_windows == 87


def test_one_corpus_alone_is_drawn_as_without_a_mixture():
    alone, plain = MixtureSampler(TOKENS[:1], [1.0], 4, 8, seed=3), BatchSampler(TOKENS[0], 4, 8, seed=3)
    for step in (0, 1, 30, 10**6):
        assert torch.equal(alone.batch(step)[0], plain.batch(step)[0])


def test_random_windows_are_anywhere_and_never_over_the_end():
    found = batches(range(2000), order="random").flatten(0, 1)
    assert (found[:, -1] - found[:, 0] == 7).all()
    starts = found[found[:, 0] < 1000, 0]
    # 4,000 starts of 692, of which the last one has its last target at the end
    assert len(set(starts.tolist())) > 650
    assert starts.max() <= 691


def test_a_corpus_that_is_shorter_than_a_sequence_is_refused():
    with pytest.raises(DataError, match="expected at least 9 tokens"):
        MixtureSampler([TOKENS[0], TOKENS[1][:8]], [0.5, 0.5], 4, 8)


def test_runs_have_the_sampler_for_their_data(tmp_path):
    files = {}
    for name, tokens in zip("abc", TOKENS, strict=True):
        with TokenWriter.create(tmp_path / f"{name}.memmap", vocab_size=4000, fingerprint="f") as writer:
            writer.write(tokens)
        files[name] = TokenFile.open(tmp_path / f"{name}.memmap")
    config = TrainingConfig(batch_size=4)
    mixed = TokenData(TokenGroup(files), None, dict(zip("abc", SHARES, strict=True)))
    assert torch.equal(make_sampler(mixed, config, 8, 3).batch(5)[0], sampler().batch(5)[0])
    assert isinstance(make_sampler(TokenData(files["a"], None), config, 8), BatchSampler)


def digest(own) -> str:
    found = hashlib.sha256()
    for step in (0, 1, 2, 51, 52, 53, 1000, 10**6):
        for part in own.batch(step):
            found.update(part.numpy().tobytes())
    return found.hexdigest()[:32]


RANDOM = [np.random.default_rng(seed).integers(0, 65536, 10_000).astype(np.uint16) for seed in range(2)]


@pytest.mark.parametrize(
    ("order", "one", "two"),
    [
        ("epoch", "a2c666852eb2395de9b1a19dc3c6018b", "322d9ca848445cad75decf61d4e3e273"),
        ("random", "0736eff4a1d0bb27562c080b4e1e0c4d", "a7046fbf95c75d18c54da5836ddf8c1c"),
    ],
)
def test_batches_stay_the_same_in_every_version(order, one, two):
    """Runs are resumed by later versions. The digests for one corpus are from before there were mixtures."""
    assert digest(BatchSampler(RANDOM[0], 6, 32, order, seed=7)) == one
    assert digest(MixtureSampler(RANDOM, [0.7, 0.3], 6, 32, order, seed=7)) == two
