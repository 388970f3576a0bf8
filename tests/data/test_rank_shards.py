import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.config import CorpusConfig
from transformerlm.data import rank_shards
from transformerlm.data.rank_shards import blocks, num_workers, own_items, shared_tokenizer
from transformerlm.distributed.world import SINGLE_PROCESS, World
from transformerlm.parallel import available_cores
from transformerlm.tokenizer import Tokenizer


@given(num_items=st.integers(0, 200), size=st.integers(1, 9))
def test_every_item_belongs_to_one_rank_and_blocks_in_turn_are_all_items_in_order(num_items, size):
    shares = [list(own_items(World(rank, size), range(num_items))) for rank in range(size)]
    assert sorted(item for own in shares for item in own) == list(range(num_items))
    taken = [list(blocks(own)) for own in shares]
    in_turn = [own[turn] for turn in range(len(taken[0])) for own in taken if turn < len(own)]
    assert [item for block in in_turn for item in block] == list(range(num_items))


@given(num_items=st.integers(0, 200), size=st.integers(1, 9))
def test_a_round_holds_one_block_of_every_rank(num_items, size):
    rounds = list(blocks(range(num_items), size))
    assert [item for items in rounds for item in items] == list(range(num_items))
    for rank in range(size):
        world = World(rank, size)
        by_round = [item for items in rounds for item in own_items(world, items)]
        assert by_round == list(own_items(world, range(num_items)))


def test_items_are_drawn_only_as_they_are_needed():
    drawn = []
    items = own_items(World(1, 2), (drawn.append(number) or number for number in range(10**9)))
    assert next(items) == rank_shards.BLOCK_ITEMS
    assert len(drawn) == rank_shards.BLOCK_ITEMS + 1


def test_ranks_of_a_machine_share_its_cores():
    assert num_workers(CorpusConfig(), SINGLE_PROCESS) == available_cores()
    assert num_workers(CorpusConfig(), World(3, 8, 3, 4)) == max(1, available_cores() // 4)
    assert num_workers(CorpusConfig(), World(3, 8, 3, 10**6)) == 1
    assert num_workers(CorpusConfig(num_workers=5), World(3, 8, 3, 4)) == 5


@pytest.mark.parametrize(
    "settings", [{}, {"pattern": r"\S+|\s+"}, {"whole_words": True}, {"special_tokens": ["<|x|>", "漢"]}]
)
def test_a_tokenizer_arrives_as_it_was(tokenizer, settings):
    sent = Tokenizer(tokenizer.vocab, tokenizer.merges, **settings)
    arrived = rank_shards._from_bytes(rank_shards._to_bytes(sent))
    assert arrived.fingerprint == sent.fingerprint
    assert arrived.special_token_ids == sent.special_token_ids
    assert arrived.encode("the cat's 漢字<|x|>") == sent.encode("the cat's 漢字<|x|>")
    assert shared_tokenizer(SINGLE_PROCESS, sent) is sent
    assert shared_tokenizer(SINGLE_PROCESS, None) is None
