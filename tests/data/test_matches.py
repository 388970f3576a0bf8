import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.data import matches
from transformerlm.data.matches import find_leaks, window_hashes

END = 0


def leaks_slowly(train, val, end_id, length):
    """Every window of the validation text, looked for in a dictionary of those of the training text."""
    first = {}
    for at in range(len(train) - length + 1):
        window = tuple(train[at : at + length])
        if end_id not in window:
            first.setdefault(window, at)
    is_leaked, sources = [False] * len(val), [-1] * len(val)
    for at in range(len(val) - length + 1):
        if tuple(val[at : at + length]) in first:
            is_leaked[at : at + length] = [True] * length
            sources[at] = first[tuple(val[at : at + length])]
    return is_leaked, sources


tokens = st.lists(st.integers(0, 2), max_size=80)


@given(
    tokens, tokens, st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.sampled_from([END, None])
)
def test_leaks_are_those_of_a_search_window_by_window(train, val, length, block, part, end_id):
    found = find_leaks(
        np.array(train, np.uint16),
        np.array(val, np.uint16),
        end_id=end_id,
        length=length,
        block_tokens=block,
        part_tokens=part,
    )
    is_leaked, sources = leaks_slowly(train, val, end_id, length)
    assert found.is_leaked.tolist() == is_leaked
    assert found.sources.tolist() == sources
    covered = [at for start, stop in found.runs() for at in range(start, stop)]
    assert covered == np.flatnonzero(is_leaked).tolist()


@given(tokens, tokens, st.integers(1, 6))
def test_hashes_that_collide_change_nothing(train, val, length):
    def colliding(tokens, length):
        number = max(0, len(tokens) - length + 1)
        return (np.asarray(tokens[:number]) % 2).astype(np.uint64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matches, "window_hashes", colliding)
        found = find_leaks(np.array(train, np.int64), np.array(val, np.int64), end_id=END, length=length)
    assert (found.is_leaked.tolist(), found.sources.tolist()) == leaks_slowly(train, val, END, length)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=60), st.integers(1, 12))
def test_hashes_of_equal_windows_are_equal_wherever_they_stand(ids, length):
    array = np.array([*ids, 7, *ids], np.uint32)
    found = window_hashes(array, length)
    number = len(ids) - length + 1
    if number > 0:
        assert (found[:number] == found[len(ids) + 1 : len(ids) + 1 + number]).all()
        windows = {tuple(ids[at : at + length]) for at in range(number)}
        assert len(set(found[:number].tolist())) == len(windows)


def test_planted_leaks_are_counted_exactly_with_their_places():
    rng = np.random.default_rng(0)
    train, val = (rng.integers(1, 5000, number).astype(np.uint16) for number in (200_000, 20_000))
    train[::1000], val[::1000] = END, END
    val[2100:2150] = train[70_300:70_350]  # 50 tokens: a leak
    val[3100:3149] = train[80_300:80_349]  # one fewer: none
    val[4100:4600] = train[90_200:90_700]
    val[5980:6060] = train[95_980:96_060]  # 20 and 59 tokens on two sides of a document's end
    found = find_leaks(train, val, end_id=END)
    assert found.runs() == [(2100, 2150), (4100, 4600), (6001, 6060)]
    assert found.main_match(train, val, (4100, 4600), END) == (4100, 90_200, 500)


def test_a_run_from_two_places_names_the_one_of_more_windows():
    train = np.array([*range(100, 200), END, *range(300, 400)], np.uint16)
    val = np.array([*range(110, 150), *range(300, 390)], np.uint16)
    found = find_leaks(train, val, end_id=END, length=10)
    assert found.runs() == [(0, 130)]
    assert found.main_match(train, val, (0, 130), END) == (40, 101, 90)


def test_progress_is_in_training_tokens():
    seen = []
    train = np.arange(1, 1001, dtype=np.uint16)
    find_leaks(train, train[:200], end_id=END, progress=seen.append, part_tokens=100)
    assert sum(seen) == pytest.approx(1000, abs=100)
