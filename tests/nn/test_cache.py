import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from tests.model_options import TOGETHER, with_biases
from transformerlm.config import ModelConfig
from transformerlm.nn import KVCache, TransformerLM

PLAIN = ModelConfig(vocab_size=61, context_length=20, d_model=32, num_layers=2, num_heads=4, d_ff=48)
VARIANTS = {
    "plain": PLAIN,
    "grouped": dataclasses.replace(PLAIN, num_kv_heads=2),
    "one-kv-head-qk-norm-tied": dataclasses.replace(PLAIN, num_kv_heads=1, qk_norm=True, tie_embeddings=True),
    "all-options": dataclasses.replace(PLAIN, num_kv_heads=2, **TOGETHER),
}
every_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
every_backend = pytest.mark.parametrize("backend", ["reference", "torch"])


def double_model(config: ModelConfig, backend: str = "auto") -> TransformerLM:
    torch.manual_seed(0)
    model = TransformerLM(config, backend=backend, dtype=torch.float64)
    return with_biases(model).requires_grad_(False)


def double_cache(config: ModelConfig, batch_size: int, **options: int) -> KVCache:
    return KVCache.for_model(config, batch_size, dtype=torch.float64, **options)


def in_pieces(model: TransformerLM, ids: Tensor, cache: KVCache, sizes: list[int]) -> Tensor:
    """Logits of `ids`, `sizes` tokens at a time."""
    return torch.cat([model(piece, cache) for piece in ids.split(sizes, dim=1)], dim=1)


@every_variant
@every_backend
def test_one_token_at_a_time_equals_the_whole(config, backend):
    model, ids = double_model(config, backend), torch.randint(61, (3, 20))
    cached = in_pieces(model, ids, double_cache(config, 3), [1] * 20)
    assert_close(cached, model(ids), rtol=1e-12, atol=1e-12)


@given(cuts=st.sets(st.integers(1, 19)), variant=st.sampled_from(sorted(VARIANTS)))
@settings(max_examples=30, deadline=None)
def test_a_prompt_in_chunks_equals_the_whole(cuts, variant):
    config = VARIANTS[variant]
    model, ids = double_model(config), torch.randint(61, (2, 20))
    edges = [0, *sorted(cuts), 20]
    sizes = [end - start for start, end in itertools.pairwise(edges)]
    cached = in_pieces(model, ids, double_cache(config, 2), sizes)
    assert_close(cached, model(ids), rtol=1e-12, atol=1e-12)


@every_backend
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    sizes=st.lists(st.integers(1, 2), min_size=1, max_size=4),
    variant=st.sampled_from(sorted(VARIANTS)),
)
@settings(max_examples=25, deadline=None)
def test_a_ragged_batch_equals_each_row_alone(backend, lengths, sizes, variant):
    """A right-padded prompt, then further tokens, one or two at a time."""
    config = VARIANTS[variant]
    model, rows, new = double_model(config, backend), len(lengths), sum(sizes)
    ids = torch.randint(61, (rows, 20))
    cache = double_cache(config, rows)
    model(ids[:, : max(lengths)], cache)  # what stands behind a row's own length is its padding
    cache.set_lengths(lengths)
    ahead = torch.stack([row[length : length + new] for row, length in zip(ids, lengths, strict=True)])
    logits = in_pieces(model, ahead, cache, sizes)
    for row, length in enumerate(lengths):
        alone = model(ids[row : row + 1, : length + new])[0, length:]
        assert_close(logits[row], alone, rtol=1e-12, atol=1e-12)
    assert cache.lengths.tolist() == [length + new for length in lengths]


@every_variant
def test_selected_rows_go_on_as_if_nothing_had_happened(config):
    model, ids = double_model(config), torch.randint(61, (4, 20))
    cache = double_cache(config, 4)
    lengths = [5, 2, 7, 4]
    model(ids[:, :7], cache)
    cache.set_lengths(torch.tensor(lengths))
    storage = cache.layers(1)[0].keys.data_ptr()
    for rows in ([3, 0, 2], [2, 1], [1]):
        cache.select(rows)
        ids, lengths = ids[rows], [lengths[row] for row in rows]
        ahead = torch.stack([row[length : length + 2] for row, length in zip(ids, lengths, strict=True)])
        logits = in_pieces(model, ahead, cache, [1, 1])
        lengths = [length + 2 for length in lengths]
        for row, length in enumerate(lengths):
            assert_close(logits[row], model(ids[row : row + 1, :length])[0, -2:], rtol=1e-12, atol=1e-12)
    assert (cache.batch_size, cache.max_length) == (1, lengths[0])
    assert cache.layers(1)[0].keys.data_ptr() == storage, "selecting rows must not allocate a new cache"
    assert cache.layers(1)[0].mask is None, "rows of one length need no mask"


def test_a_reset_cache_is_as_good_as_new():
    model, ids = double_model(PLAIN), torch.randint(61, (2, 20))
    cache = double_cache(PLAIN, 2)
    model(torch.randint(61, (2, 20)), cache)
    cache.select([1])
    cache.reset()
    assert (cache.batch_size, cache.max_length) == (2, 0)
    assert_close(in_pieces(model, ids, cache, [5, 15]), model(ids), rtol=1e-12, atol=1e-12)


def test_lengths_can_be_taken_back():
    model, ids = double_model(PLAIN), torch.randint(61, (2, 20))
    cache = double_cache(PLAIN, 2)
    model(torch.cat([ids[:, :6], torch.randint(61, (2, 9))], dim=1), cache)
    cache.set_lengths([6, 6])
    assert_close(model(ids[:, 6:], cache), model(ids)[:, 6:], rtol=1e-12, atol=1e-12)


def test_rows_of_one_length_take_the_quick_way_and_others_do_not():
    cache = double_cache(PLAIN, 3)
    cache.advance(4)
    assert cache.layers(1)[0].mask is None
    cache.set_lengths([4, 2, 3])
    layer = cache.layers(2)[0]
    assert layer.positions.squeeze(1).tolist() == [[4, 5], [2, 3], [3, 4]]
    assert layer.mask[1, 0].tolist() == [[True] * 3 + [False] * 3, [True] * 4 + [False] * 2]


def test_a_smaller_capacity_suffices_for_a_shorter_text():
    model, ids = double_model(PLAIN), torch.randint(61, (2, 9))
    cache = double_cache(PLAIN, 2, capacity=9)
    assert cache.capacity == 9
    assert_close(in_pieces(model, ids, cache, [8, 1]), model(ids), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="at most 9 tokens"):
        model(ids[:, :1], cache)


def test_a_full_context_takes_no_further_token():
    model, cache = double_model(PLAIN), double_cache(PLAIN, 1, capacity=50)
    model(torch.randint(61, (1, 20)), cache)
    with pytest.raises(ValueError, match="context_length = 20"):
        model(torch.randint(61, (1, 1)), cache)


@pytest.mark.parametrize("lengths", [[3, 3, 3], [5, 1], [-1, 1]])
def test_lengths_that_cannot_be_are_refused(lengths):
    cache = double_cache(PLAIN, 2)
    cache.advance(4)
    with pytest.raises(ValueError, match="lengths"):
        cache.set_lengths(lengths)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_under_autocast_it_is_the_same_within_precision(dtype):
    model, ids = double_model(PLAIN).float(), torch.randint(61, (2, 20))
    cache = KVCache.for_model(PLAIN, 2, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        cached, whole = in_pieces(model, ids, cache, [7, 1, 12]), model(ids)
    assert cache.layers(0)[0].keys.dtype == dtype
    assert_close(cached, whole, rtol=0, atol=0.05)


def test_no_gradient_flows_through_it():
    model = TransformerLM(PLAIN)
    cache = KVCache.for_model(PLAIN, 1)
    model(torch.randint(61, (1, 5)), cache)
    assert not cache.layers(1)[0].keys.requires_grad


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_decoding_never_waits_for_the_device():
    model = TransformerLM(VARIANTS["grouped"], device="cuda")
    cache = KVCache.for_model(model.config, 3, device="cuda")
    ids = torch.randint(61, (3, 20), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.inference_mode():
            model(ids[:, :6], cache)
            torch.cuda.set_sync_debug_mode("default")
            cache.set_lengths([6, 2, 4])
            torch.cuda.set_sync_debug_mode("error")
            for position in range(6, 20):
                model(ids[:, position : position + 1], cache)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_rows_of_another_cache_take_the_place_of_some():
    def filled(rows, capacity, seed):
        cache = KVCache(2, rows, 3, capacity, 4)
        for memory in cache.memory:
            memory.normal_(generator=torch.Generator().manual_seed(seed))
        cache.advance(capacity - 1)
        return cache

    cache, other = filled(4, 9, 1), filled(2, 5, 2)
    cache.set_lengths([8, 1, 3, 7])
    other.set_lengths([4, 2])
    before = [memory.clone() for memory in cache.memory]
    cache.put([3, 0, 2], other, [1, 0, 1])
    assert cache.lengths.tolist() == [4, 1, 2, 2]
    for memory, old, source in zip(cache.memory, before, other.memory, strict=True):
        assert memory[:, 3, :, :2].equal(source[:, 1, :, :2])
        assert memory[:, 0, :, :4].equal(source[:, 0, :, :4])
        assert memory[:, 2, :, :2].equal(source[:, 1, :, :2])
        assert memory[:, 1].equal(old[:, 1])
    with pytest.raises(ValueError, match="at most 5 tokens"):
        other.put([0], filled(1, 7, 3), [0])


def test_rows_are_copied_swapped_and_taken_into_use_with_what_they_hold():
    model = double_model(PLAIN)
    ids = torch.randint(61, (3, 9))
    cache = double_cache(PLAIN, 5, capacity=10)
    cache.select([0, 1, 2])
    whole = model(ids, cache)
    cache.set_lengths([9, 5, 7])
    cache.swap(0, 1, 9)
    assert cache.row_lengths == [5, 9, 7]
    cache.copy(1, 4, 6)  # to a row that is not in use
    cache.grow(12, num_rows=6)
    row = cache.row(4, 6)  # a view: what passes it is stored in the cache
    assert_close(model(ids[:1, 6:8], row), whole[:1, 6:8])
    cache.copy(4, 3, 8)
    cache.take_rows([8])
    assert cache.row_lengths == [5, 9, 7, 8]
    next_ids = torch.tensor([[ids[1, 5]], [3], [ids[2, 7]], [ids[0, 8]]])
    found = model(next_ids, cache)[:, 0]
    assert_close(found[[0, 2, 3]], torch.stack([whole[1, 5], whole[2, 7], whole[0, 8]]))
