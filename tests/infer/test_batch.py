"""Which prompts are computed together. What texts come to is in test_generate.py."""

from hypothesis import given
from hypothesis import strategies as st

from transformerlm.infer.batch import FREE_PADDING, MAX_PADDING, MAX_TOKENS, groups_of_similar_length


@given(st.lists(st.integers(1, 900), max_size=80), st.integers(1, 5))
def test_groups_hold_every_window_once_and_little_padding(lengths, kinds):
    windows = [[at % kinds] * length for at, length in enumerate(lengths)]
    groups = groups_of_similar_length(windows)
    assert sorted(at for group in groups for at in group) == list(range(len(windows)))
    for group in groups:
        distinct = {tuple(windows[at]) for at in group}
        padded = len(distinct) * max(map(len, distinct))
        padding = padded - sum(map(len, distinct))
        assert padding <= max(FREE_PADDING, MAX_PADDING * padded)
        assert padded <= MAX_TOKENS or len(distinct) == 1
    homes = [{tuple(windows[at]) for at in group} for group in groups]
    assert sum(map(len, homes)) == len(set(map(tuple, windows)))  # equal ones are together


def test_similar_lengths_are_one_group_and_very_different_ones_are_not():
    assert len(groups_of_similar_length([[i] * 100 for i in range(60)])) == 1
    assert len(groups_of_similar_length([[i] * (10 if i % 2 else 900) for i in range(8)])) == 2
    assert groups_of_similar_length([]) == []
