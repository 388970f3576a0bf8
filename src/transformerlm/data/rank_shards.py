"""How ranks share the work on a corpus: who gets which items, and how the results come together in order.

All ranks list the same items; which are whose is a function of their numbers alone. What an item is,
and what is made of it, is the business of `pieces.py` and `build.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from transformerlm.config import CorpusConfig
from transformerlm.data.corpus import Corpora
from transformerlm.distributed.collectives import all_gather_bytes, broadcast_bytes
from transformerlm.distributed.world import World
from transformerlm.errors import DataError
from transformerlm.parallel import available_cores
from transformerlm.tokenizer import Tokenizer

T = TypeVar("T")

BLOCK_ITEMS = 8
"""Items of work that go to one rank together, so that ranks seldom have to wait for each other."""


def own_items(world: World, items: Iterable[T]) -> Iterator[T]:
    """This rank's share: blocks of BLOCK_ITEMS are dealt to the ranks in turn."""
    return (item for number, item in enumerate(items) if number // BLOCK_ITEMS % world.size == world.rank)


def blocks(items: Iterable[T], number: int = 1) -> Iterator[list[T]]:
    """All items in lists, in order, each of that number of blocks."""
    iterator = iter(items)
    return iter(lambda: list(islice(iterator, number * BLOCK_ITEMS)), [])


def num_workers(config: CorpusConfig, world: World) -> int:
    """Threads or processes of this rank: those of the config, or its part of the machine's cores."""
    return config.num_workers or max(1, available_cores() // world.local_size)


def check_same_files(world: World, corpora: Corpora) -> None:
    """Compare what the ranks see of the corpus.

    Raises:
        DataError: not all see the same files.
    """
    summaries = [json.loads(data) for data in all_gather_bytes(world, json.dumps(corpora.summary()).encode())]
    for rank, summary in enumerate(summaries):
        for key, files in summary.items():
            if files != summaries[0][key]:
                what = f"expected the same on all ranks, got {summaries[0][key]} on rank 0"
                raise DataError(f"{key}: {what} and {files} on rank {rank}")


def shared_tokenizer(world: World, tokenizer: Tokenizer | None) -> Tokenizer | None:
    """Rank 0's tokenizer, or its lack of one, on all ranks: the others need not see its files."""
    data = broadcast_bytes(world, _to_bytes(tokenizer) if tokenizer and world.size > 1 else b"")
    return _from_bytes(data) if data and not world.is_main else tokenizer


def _to_bytes(tokenizer: Tokenizer) -> bytes:
    tokens = [tokenizer.vocab[token_id].hex() for token_id in range(tokenizer.vocab_size)]
    merges = [[left.hex(), right.hex()] for left, right in tokenizer.merges]
    settings = {"pattern": tokenizer.pretokenizer.pattern, "whole_words": tokenizer.whole_words}
    return json.dumps([tokens, merges, list(tokenizer.special_token_ids), settings]).encode()


def _from_bytes(data: bytes) -> Tokenizer:
    tokens, merges, special_tokens, settings = json.loads(data)
    pairs = [(bytes.fromhex(left), bytes.fromhex(right)) for left, right in merges]
    return Tokenizer(dict(enumerate(map(bytes.fromhex, tokens))), pairs, special_tokens, **settings)
