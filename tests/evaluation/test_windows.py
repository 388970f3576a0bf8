import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from transformerlm.evaluation.text import Part
from transformerlm.evaluation.windows import Window, batches, document_windows, windows


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
    found = list(batches(iter(every), max_tokens))
    assert sorted(window.document for batch in found for window in batch) == [*range(len(lengths))]
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
