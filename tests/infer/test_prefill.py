"""Grouping of windows; the texts of batches are tested in test_generate.py."""

from hypothesis import given
from hypothesis import strategies as st

from transformerlm.infer.prefill import (
    FREE_PADDING_TOKENS,
    MAX_PADDING_FRACTION,
    MAX_TOKENS,
    groups_of_similar_length,
)


@given(st.lists(st.integers(1, 900), max_size=80), st.integers(1, 5))
def test_groups_hold_every_window_once_and_little_padding(lengths, kinds):
    windows = [[index % kinds] * length for index, length in enumerate(lengths)]
    groups = groups_of_similar_length(windows)
    assert sorted(index for group in groups for index in group) == list(range(len(windows)))
    for group in groups:
        distinct = {tuple(windows[index]) for index in group}
        padded = len(distinct) * max(map(len, distinct))
        padding = padded - sum(map(len, distinct))
        assert padding <= max(FREE_PADDING_TOKENS, MAX_PADDING_FRACTION * padded)
        assert padded <= MAX_TOKENS or len(distinct) == 1
    distinct_per_group = [{tuple(windows[index]) for index in group} for group in groups]
    assert sum(map(len, distinct_per_group)) == len(set(map(tuple, windows)))  # equal ones are together


def test_similar_lengths_are_one_group_and_very_different_ones_are_not():
    assert len(groups_of_similar_length([[i] * 100 for i in range(60)])) == 1
    assert len(groups_of_similar_length([[i] * (10 if i % 2 else 900) for i in range(8)])) == 2
    assert groups_of_similar_length([]) == []
