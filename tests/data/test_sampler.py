import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformerlm.data.sampler import BatchSampler, get_batch, shuffled, validation_windows
from transformerlm.errors import ConfigError, DataError

TOKENS = np.arange(1000, dtype=np.uint16)


def keys(seed, number=8):
    return np.random.default_rng(seed).integers(0, 2**64, number, dtype=np.uint64)


@settings(deadline=None)
@given(size=st.integers(1, 3000), seed=st.integers(0, 2**32))
def test_shuffling_is_a_bijection(size, seed):
    result = shuffled(np.arange(size, dtype=np.uint64), size, keys(seed))
    np.testing.assert_array_equal(np.sort(result), np.arange(size))


def test_shuffling_needs_no_table():
    """Of 10**15 windows some are asked for: all differ, all are in range, and each is as it is alone."""
    size = 10**15
    index = np.random.default_rng(0).integers(0, size, 2000).astype(np.uint64)
    result = shuffled(index, size, keys(1))
    assert (result < size).all()
    assert len(np.unique(result)) == len(np.unique(index))
    alone = [int(shuffled(index[i : i + 1], size, keys(1))[0]) for i in range(20)]
    assert alone == result[:20].tolist()


@pytest.mark.parametrize("size", [7, 1000])
def test_every_index_may_land_anywhere(size):
    """Chi-squared of where two indices land, and how far apart, over many keys: uniform within 5 sigma."""
    rounds, bins = 3000, min(size, 20)
    many_keys = keys(0, 8 * rounds).reshape(rounds, 8)
    first = np.array([shuffled(np.array([0, 1], np.uint64), size, own) for own in many_keys])
    distance = (first[:, 1].astype(int) - first[:, 0].astype(int)) % size
    for landed, values in ((first[:, 0], size), (first[:, 1], size), (distance - 1, size - 1)):
        edges = np.floor(np.arange(bins + 1) * values / bins)
        observed, _ = np.histogram(landed, bins=edges - 0.5)
        expected = rounds * np.diff(edges) / values
        keep = expected > 0
        chi_squared = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
        freedom = keep.sum() - 1
        assert chi_squared < freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("order", ["epoch", "random"])
def test_targets_follow_inputs(order):
    sampler = BatchSampler(TOKENS, 4, 16, order, seed=3)
    for step in range(100):
        inputs, targets = sampler.batch(step)
        assert inputs.shape == targets.shape == (4, 16)
        assert inputs.dtype == targets.dtype == torch.int64
        torch.testing.assert_close(targets, (inputs + 1) % 1000)
        torch.testing.assert_close(inputs[:, 1:], targets[:, :-1])
    assert order == "epoch" or (np.diff(sampler.batch(0)[0].numpy()) == 1).all()


@pytest.mark.parametrize("order", ["epoch", "random"])
def test_a_batch_is_a_function_of_seed_and_step(order):
    def batches(seed, steps):
        sampler = BatchSampler(TOKENS, 4, 16, order, seed)
        return torch.stack([sampler.batch(step)[0] for step in steps])

    torch.manual_seed(0)
    np.random.seed(0)
    straight = batches(1, range(60))
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(straight[40:], batches(1, range(40, 60)))
    assert torch.equal(straight.flip(0), batches(1, range(59, -1, -1)))
    assert not torch.equal(straight, batches(2, range(60)))
    assert len({tuple(batch.flatten().tolist()) for batch in straight}) == 60


@pytest.mark.parametrize("order", ["epoch", "random"])
@pytest.mark.parametrize("world_size", [2, 6])
def test_the_ranks_together_have_the_global_batch(order, world_size):
    sampler = BatchSampler(TOKENS, 6, 8, order, seed=5)
    for step in range(40):
        shares = [sampler.batch(step, rank, world_size) for rank in range(world_size)]
        for whole, parts in zip(sampler.batch(step), zip(*shares, strict=True), strict=True):
            assert torch.equal(whole, torch.cat(parts))


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(
        ConfigError, match=r"\[training\].batch_size: expected a multiple of the 4 ranks, got 6"
    ):
        BatchSampler(TOKENS, 6, 8).batch(0, 0, 4)


@settings(deadline=None)
@given(
    num_tokens=st.integers(2, 300),
    context_length=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    data=st.data(),
)
def test_an_epoch_has_every_window_once(num_tokens, context_length, batch_size, data):
    context_length = min(context_length, num_tokens - 1)
    seed = data.draw(st.integers(0, 2**70))
    sampler = BatchSampler(np.arange(num_tokens), batch_size, context_length, "epoch", seed)
    windows = sampler.num_windows
    steps = -(-3 * windows // batch_size)
    inputs = torch.cat([sampler.batch(step)[0] for step in range(steps)])
    for epoch in range(3):
        seen = inputs[epoch * windows : (epoch + 1) * windows].flatten()
        # No token comes twice, and fewer than a window are left over.
        assert len(seen.unique()) == len(seen) > num_tokens - context_length


def test_epochs_differ_in_order_and_in_where_windows_begin():
    sampler = BatchSampler(TOKENS, 10, 10, "epoch")
    epochs = [
        np.concatenate([sampler.starts(10 * epoch + step) for step in range(10)]) for epoch in range(30)
    ]
    assert len({tuple(epoch) for epoch in epochs}) == 30
    assert len({epoch[0] % 10 for epoch in epochs}) > 5
    assert all((np.diff(epoch) != 10).any() for epoch in epochs)


def test_random_windows_come_from_everywhere():
    sampler = BatchSampler(np.arange(12), 500, 8, "random", seed=0)
    starts = sampler.starts(0)
    assert set(starts) == {0, 1, 2, 3}
    assert np.bincount(starts).min() > 80


def test_the_order_is_the_one_it_always_was():
    """Runs resume in later versions: these numbers may never change."""
    assert BatchSampler(TOKENS, 4, 16, "random", seed=1234).starts(7).tolist() == [523, 185, 584, 90]
    assert BatchSampler(TOKENS, 4, 16, "epoch", seed=1234).starts(7).tolist() == [608, 568, 376, 40]


@settings(deadline=None)
@given(num_tokens=st.integers(2, 200), context_length=st.integers(1, 50), batch_size=st.integers(1, 5))
def test_validation_scores_every_target_once_in_order(num_tokens, context_length, batch_size):
    batches = list(validation_windows(np.arange(num_tokens), context_length, batch_size))
    targets = torch.cat([targets.flatten() for _, targets in batches])
    assert targets.tolist() == list(range(1, num_tokens))
    for inputs, targets in batches:
        torch.testing.assert_close(targets, inputs + 1)
        assert inputs.shape[0] <= batch_size
        assert inputs.shape[1] <= context_length
    assert sum(inputs.shape[1] < context_length for inputs, _ in batches) <= 1


def test_get_batch_draws_windows_with_torch_s_generator():
    torch.manual_seed(0)
    inputs, targets = get_batch(TOKENS, 32, 100)
    assert inputs.shape == targets.shape == (32, 100)
    assert inputs.dtype == targets.dtype == torch.int64
    torch.testing.assert_close(targets, inputs + 1)
    torch.manual_seed(0)
    assert torch.equal(get_batch(TOKENS, 32, 100)[0], inputs)
    assert not torch.equal(get_batch(TOKENS, 32, 100)[0], inputs)


def test_get_batch_reaches_the_first_token_and_the_last():
    inputs, targets = get_batch(np.arange(11, dtype=np.uint32), 500, 9)
    assert set(inputs[:, 0].tolist()) == {0, 1}
    assert targets.max() == 10


def test_a_mapped_file_serves_as_well(tmp_path):
    TOKENS.tofile(tmp_path / "tokens")
    mapped = np.memmap(tmp_path / "tokens", np.uint16, mode="r")
    for batch, same in zip(
        BatchSampler(mapped, 4, 16).batch(3), BatchSampler(TOKENS, 4, 16).batch(3), strict=True
    ):
        assert torch.equal(batch, same)
        assert type(batch) is torch.Tensor


@pytest.mark.parametrize(
    "draw",
    [
        lambda tokens: get_batch(tokens, 1, 8),
        lambda tokens: BatchSampler(tokens, 1, 8),
        lambda tokens: next(validation_windows(tokens[:1], 8, 1)),
    ],
)
def test_too_little_text_is_an_error_and_just_enough_is_none(draw):
    with pytest.raises(DataError, match=r"expected at least \d tokens"):
        draw(np.arange(8))
    assert get_batch(np.arange(9), 1, 8)[1].tolist() == [[*range(1, 9)]]


@pytest.mark.gpu
def test_batches_arrive_on_the_gpu():
    inputs, targets = BatchSampler(TOKENS, 4, 16).batch(0, device="cuda")
    assert inputs.is_cuda
    assert torch.equal(inputs.cpu(), BatchSampler(TOKENS, 4, 16).batch(0)[0])
    assert torch.equal(targets.cpu(), BatchSampler(TOKENS, 4, 16).batch(0)[1])
