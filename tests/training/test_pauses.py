"""Steps that fit into a time beside validating and saving."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.training.pauses import Pause, seconds_of_steps, steps_that_fit

pauses = st.lists(
    st.builds(Pause, st.floats(0, 50), st.one_of(st.just(0), st.integers(1, 200))), min_size=0, max_size=3
)


@given(pauses, st.integers(0, 500), st.floats(0.01, 10), st.floats(0, 5000))
def test_steps_that_fit_is_the_inverse_of_seconds_of_steps(pauses, step, pace, steps):
    seconds = seconds_of_steps(steps, step, pace, pauses)
    assert steps_that_fit(seconds, step, pace, pauses) == pytest.approx(steps, rel=1e-6, abs=1e-6)


@given(pauses, st.integers(0, 500), st.floats(0.01, 10), st.integers(0, 400))
def test_pauses_are_counted_to_less_than_one_of_each(pauses, step, pace, steps):
    exact = steps * pace
    for pause in pauses:
        on_the_way = [s for s in range(step + 1, step + steps) if pause.every and s % pause.every == 0]
        exact += pause.seconds * (len(on_the_way) + 1)
    smooth = seconds_of_steps(steps, step, pace, pauses)
    assert exact - sum(pause.seconds for pause in pauses) <= smooth + 1e-6
    assert smooth <= exact + 1e-6


@given(pauses, st.integers(0, 500), st.floats(0.01, 10))
def test_what_does_not_even_suffice_for_the_end_is_enough_for_no_step(pauses, step, pace):
    at_end = sum(pause.seconds for pause in pauses)
    assert steps_that_fit(at_end, step, pace, pauses) == pytest.approx(0, abs=1e-9)
    assert steps_that_fit(at_end - 1, step, pace, pauses) == 0
