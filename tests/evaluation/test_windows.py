import itertools
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformerlm.evaluation.leaks import LeakedTokens
from transformerlm.evaluation.text import Part
from transformerlm.evaluation.windows import (
    BLOCK_BATCHES,
    Window,
    batches,
    blocks,
    document_windows,
    marked_windows,
    windows,
)
from transformerlm.ngrams import NgramIndex, NgramMemory
from transformerlm.ngrams.reference import weights_behind


@given(st.integers(0, 60), st.integers(1, 12), st.data())
def test_every_token_but_the_first_counts_once_with_enough_before_it(length, context_length, data):
    stride = data.draw(st.integers(1, context_length))
    cuts = sorted(data.draw(st.lists(st.integers(0, length), max_size=4)))
    ids = np.arange(length, dtype=np.uint16)
    parts = [ids[first:last] for first, last in itertools.pairwise([0, *cuts, length])]
    counted = []
    for window in windows(7, parts, context_length, stride):
        assert window.document == 7
        assert 2 <= len(window.ids) <= context_length + 1
        assert window.ids.tolist() == [*range(window.ids[0], window.ids[-1] + 1)]
        targets = window.ids[-window.num_targets :].tolist()
        least = min(int(targets[0]), context_length - stride + 1)
        assert targets[0] - window.ids[0] >= least
        counted += targets
    assert counted == [*range(1, length)]


@given(st.lists(st.integers(1, 16), max_size=200), st.integers(16, 40))
@settings(max_examples=50)
def test_batches_hold_every_window_once_within_their_size(lengths, max_tokens):
    every = [Window(number, np.zeros(length + 1, np.uint16), length) for number, length in enumerate(lengths)]
    own_blocks = list(blocks(iter(every), max_tokens))
    assert [window.document for block in own_blocks for window in block] == [*range(len(lengths))]
    limit = BLOCK_BATCHES * max_tokens
    assert all(sum(len(window.ids) for window in block[:-1]) < limit for block in own_blocks)
    assert all(sum(len(window.ids) for window in block) >= limit for block in own_blocks[:-1])
    places = [batch for block in own_blocks[:1] for batch in batches(block, max_tokens)]
    assert sorted(itertools.chain(*places)) == [*range(len(own_blocks[0]) if own_blocks else 0)]
    found = [[own_blocks[0][place] for place in batch] for batch in places]
    assert all(len(batch) * (len(batch[0].ids) - 1) <= max_tokens for batch in found)
    assert all(len(batch[0].ids) == max(len(window.ids) for window in batch) for batch in found)


def test_a_document_stands_between_ends_and_is_encoded_part_by_part():
    parts = [Part(0, "a", b"ab"), Part(0, "a", b"cd"), Part(1, "b", b"e")]

    def encode(part):
        return np.frombuffer(part.utf8, np.uint8).astype(np.uint16)

    ends = np.array([0], np.uint16)
    found = [
        (w.document, w.ids.tolist(), w.num_targets) for w in document_windows(parts, encode, ends, ends, 9, 4)
    ]
    assert found == [(0, [0, *b"abcd", 0], 5), (1, [0, *b"e", 0], 2)]
    begun = document_windows(parts, encode, ends, ends[:0], 9, 4)
    assert [(w.ids.tolist(), w.num_targets) for w in begun] == [([0, *b"abcd"], 4), ([0, *b"e"], 1)]
    without = document_windows(parts, encode, ends[:0], ends[:0], 9, 4)
    assert [(w.document, w.ids.tolist(), w.num_targets) for w in without] == [(0, [*b"abcd"], 3)]


def test_the_memory_of_a_document_begins_anew_and_marks_stay_with_their_tokens():
    texts = [b"abcabcab", b"abcabc", b"cabcabca"]
    parts = [Part(0, "a", texts[0]), Part(0, "a", texts[1]), Part(1, "b", texts[2])]
    memory = NgramMemory(NgramIndex.build([encode(Part(0, "", b"abcabd"))], 128))
    ends = np.array([0], np.uint16)
    cut = partial(document_windows, context_length=5, stride=2)
    found = list(cut(parts, encode, ends, ends, ngrams=memory))
    for document, text in enumerate((texts[0] + texts[1], texts[2])):
        ids = [0, *text, 0]
        expected = [weights_behind([*b"abcabd"], ids[:place]) for place in range(1, len(ids))]
        place = 1
        for window in (window for window in found if window.document == document):
            weights, totals = window.remembered[:, -window.num_targets :]
            for weight, total in zip(weights, totals, strict=True):
                assert weight == pytest.approx(expected[place - 1][0].get(ids[place], 0.0))
                assert total == pytest.approx(expected[place - 1][1])
                place += 1
        assert place == len(ids)
    masks = [np.arange(len(part.utf8)) % 2 == 0 for part in parts]
    leaked = LeakedTokens(masks, [])
    marked = list(marked_windows(cut, parts, encode, ends, ends, leaked, memory))
    assert [window.remembered.tolist() for window in marked] == [w.remembered.tolist() for w in found]
    assert [window.ids.tolist() for window in marked] == [window.ids.tolist() for window in found]


def encode(part):
    return np.frombuffer(part.utf8, np.uint8).astype(np.uint16)
