"""Scatter charts: where points are, and that none is lost."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.report.scatter import HEIGHT, LEFT, WIDTH, Point, panels, result_range

VALUES = st.one_of(
    st.floats(1e-9, 1e9), st.integers(-(10**9), 10**9), st.booleans(), st.text(max_size=5), st.none()
)
RESULTS = st.none() | st.floats(-1e6, 1e6) | st.sampled_from([math.inf, math.nan])


@given(st.lists(st.tuples(VALUES, RESULTS), max_size=12), st.booleans())
def test_every_run_is_a_point_in_the_picture(runs, is_log):
    points = [Point({"a": value}, result, "complete", f"{n}") for n, (value, result) in enumerate(runs)]
    (panel,) = panels(points, ["a"], frozenset({"a"} if is_log else ()))
    assert sorted(dot.label for dot in panel.dots) == sorted(point.label for point in points)
    for dot in panel.dots:
        assert LEFT - 7 <= dot.x <= WIDTH
        assert 0 < dot.y < HEIGHT
    for tick in (*panel.x_ticks, *panel.y_ticks):
        assert math.isfinite(tick.at)


def test_lower_results_are_lower_and_places_follow_the_values():
    points = [Point({"lr": 10.0**-n}, 2.0 + n / 10, "complete", str(n)) for n in range(1, 5)]
    (panel,) = panels(points, ["lr"])
    places = {dot.label: (dot.x, dot.y) for dot in panel.dots}
    assert sorted(places, key=lambda name: places[name][0]) == ["4", "3", "2", "1"]
    assert sorted(places, key=lambda name: -places[name][1]) == ["1", "2", "3", "4"]
    # Four decades: on a logarithmic scale they are equally far from each other.
    xs = sorted(x for x, _ in places.values())
    assert [after - before for before, after in itertools.pairwise(xs)] == pytest.approx(
        [xs[1] - xs[0]] * 3, abs=0.2
    )


def test_one_bad_result_does_not_flatten_the_good_ones():
    assert result_range([2.0, 2.1, 2.2, 2.3, 900.0]) == (2.0, 2.3)
    assert result_range([None, math.nan]) == (0.0, 1.0)
    low, high = result_range([2.0, 2.0])
    assert low < high


def test_the_best_is_drawn_last_over_the_others():
    kinds = ["best", "bad", "complete", "finalist", "short"]
    (panel,) = panels([Point({"a": 1}, 2.0, kind, kind) for kind in kinds], ["a"])
    assert [dot.kind for dot in panel.dots] == ["bad", "short", "complete", "finalist", "best"]
