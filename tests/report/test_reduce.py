import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.report.reduce import gaps, kept_points, running_mean

VALUES = st.one_of(st.floats(-5, 5), st.just(float("nan")), st.just(float("inf")), st.just(float("-inf")))
PARTS = 5


def slow_parts(x, num_parts):
    """Index lists, by the definition: equal parts of the range, a border belongs to the part on its left."""
    edges = np.linspace(x[0], x[-1], num_parts + 1)[1:-1]
    parts = [[] for _ in range(num_parts)]
    for index, place in enumerate(x):
        parts[sum(place > edge for edge in edges)].append(index)
    return parts


@given(st.lists(VALUES, min_size=1, max_size=120), st.lists(st.integers(1, 40), min_size=120, max_size=120))
def test_each_part_keeps_its_ends_its_extremes_and_what_is_not_finite(values, distances):
    y, x = np.array(values), np.cumsum(distances[: len(values)]).astype(float)
    kept = kept_points(x, y, PARTS).tolist()
    assert kept == sorted(set(kept))
    if len(x) <= 4 * PARTS:
        assert kept == list(range(len(x)))
        return
    assert len(kept) <= 7 * PARTS
    for part in filter(None, slow_parts(x, PARTS)):
        here = [index for index in part if index in kept]
        assert {part[0], part[-1]} <= set(here)
        finite = [index for index in part if np.isfinite(y[index])]
        if finite:
            assert min(y[finite]) == min(y[i] for i in here if np.isfinite(y[i]))
            assert max(y[finite]) == max(y[i] for i in here if np.isfinite(y[i]))
        if len(finite) < len(part):
            assert next(i for i in part if not np.isfinite(y[i])) in here


def test_of_a_million_points_one_spike_and_one_gap_are_left():
    x, y = np.arange(1.0, 1_000_001.0), np.sin(np.arange(1_000_000.0))
    y[654_321], y[123_456] = 99.0, np.nan
    x[800_000:] += 5_000
    kept = kept_points(x, y, 500)
    assert {654_321, 123_456, 799_999, 800_000, 0, 999_999} <= set(kept.tolist())
    assert len(kept) <= 2_010


@pytest.mark.parametrize(
    ("x", "before"),
    [
        ([10, 20, 30, 40], []),
        ([10, 20, 30, 100, 110, 120], [3]),
        ([10, 20, 30, 130, 230, 330], []),  # logged less often from then on
        ([1, 2, 3, 4, 12, 13, 14, 15, 99, 100, 101], [4, 8]),
        ([5, 500], []),
        ([], []),
    ],
)
def test_a_gap_is_wider_than_what_is_beside_it(x, before):
    assert np.flatnonzero(gaps(np.array(x, dtype=float))).tolist() == before


@given(st.lists(VALUES, max_size=40), st.integers(0, 10))
def test_running_mean_is_that_of_the_finite_values_around(values, width):
    y = np.array(values, dtype=float)
    for index, mean in enumerate(running_mean(y, width)):
        beside = min(width, index, len(y) - 1 - index)
        near = y[index - beside : index + beside + 1]
        near = near[np.isfinite(near)]
        assert (np.isnan(mean) and not len(near)) or mean == pytest.approx(np.mean(near), abs=1e-9)
