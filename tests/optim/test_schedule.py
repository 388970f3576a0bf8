import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.optim import cosine_schedule


def test_values_on_the_way():
    def lr(step: int) -> float:
        return cosine_schedule(
            step, max_learning_rate=1.0, min_learning_rate=0.1, warmup_steps=10, cosine_steps=50
        )

    assert [lr(step) for step in (0, 1, 5, 10)] == pytest.approx([0, 0.1, 0.5, 1])
    assert [lr(step) for step in (20, 30, 40)] == pytest.approx(
        [0.1 + 0.45 * (1 + math.cos(math.pi * x)) for x in (0.25, 0.5, 0.75)]
    )
    assert [lr(step) for step in (50, 51, 10**9)] == [0.1, 0.1, 0.1]


def test_without_warm_up_it_starts_at_the_maximum():
    assert cosine_schedule(0, 3e-4, 0.0, 0, 100) == 3e-4


def test_without_a_cosine_it_stays_at_the_minimum():
    assert cosine_schedule(5, 1.0, 0.25, 5, 5) == 0.25


@given(
    warmup_steps=st.integers(0, 50),
    length=st.integers(1, 200),
    maximum=st.floats(1e-6, 1),
    fraction=st.floats(0, 1),
)
def test_it_rises_then_falls_and_stays_between_its_ends(warmup_steps, length, maximum, fraction):
    minimum = fraction * maximum
    last = warmup_steps + length
    values = [cosine_schedule(step, maximum, minimum, warmup_steps, last) for step in range(last + 5)]
    up, down = values[: warmup_steps + 1], values[warmup_steps:]
    assert up == sorted(up)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(down))
    assert values[warmup_steps] == pytest.approx(maximum)
    assert values[last] == minimum
    assert max(values) <= maximum * (1 + 1e-12)
