import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.config import ScheduleConfig
from transformerlm.optim import (
    Anneal,
    anneal_steps,
    cosine_schedule,
    fitted_warmup,
    lr_factor,
    wsd_schedule,
)

SCHEDULES = st.builds(
    ScheduleConfig,
    name=st.sampled_from(["cosine", "wsd"]),
    warmup_steps=st.integers(0, 60),
    decay_fraction=st.floats(0.001, 1),
    final_lr_fraction=st.floats(0, 1),
)


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
    assert wsd_schedule(0, 3e-4, 0.0, 0, 20, 100) == 3e-4


def test_without_a_cosine_it_stays_at_the_minimum():
    assert cosine_schedule(5, 1.0, 0.25, 5, 5) == 0.25


def test_warm_up_stable_decay():
    def lr(step: int) -> float:
        return wsd_schedule(
            step,
            max_learning_rate=2.0,
            min_learning_rate=0.2,
            warmup_steps=10,
            decay_steps=20,
            total_steps=50,
        )

    assert [lr(step) for step in (0, 1, 5, 9)] == pytest.approx([0, 0.2, 1.0, 1.8])
    assert {lr(step) for step in range(10, 31)} == {2.0}
    assert [lr(step) for step in (31, 35, 40, 49)] == pytest.approx([1.91, 1.55, 1.1, 0.29])
    assert [lr(step) for step in (50, 51, 10**9)] == [0.2, 0.2, 0.2]


def test_a_decay_that_would_begin_within_the_warm_up_begins_at_its_end():
    values = [wsd_schedule(step, 1.0, 0.0, 4, 100, 8) for step in range(9)]
    assert values == [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0]


@given(
    warmup_steps=st.integers(0, 50),
    length=st.integers(1, 200),
    maximum=st.floats(1e-6, 1),
    fraction=st.floats(0, 1),
    decay_steps=st.floats(0, 300),
)
def test_both_rise_then_fall_and_stay_between_their_ends(
    warmup_steps, length, maximum, fraction, decay_steps
):
    minimum = fraction * maximum
    last = warmup_steps + length
    steps = range(last + 5)
    for values in (
        [cosine_schedule(step, maximum, minimum, warmup_steps, last) for step in steps],
        [wsd_schedule(step, maximum, minimum, warmup_steps, decay_steps, last) for step in steps],
    ):
        up, down = values[: warmup_steps + 1], values[warmup_steps:]
        assert up == sorted(up)
        assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(down))
        assert values[warmup_steps] == pytest.approx(maximum)
        assert values[last] == minimum
        assert max(values) <= maximum * (1 + 1e-12)


@given(
    step=st.integers(0, 10**6),
    schedule=SCHEDULES,
    total_steps=st.one_of(st.floats(0, 1e6), st.integers(0, 200).map(float), st.just(math.inf)),
)
def test_the_factor_is_a_fraction_whatever_the_budget_comes_to(step, schedule, total_steps):
    factor = lr_factor(step, schedule, total_steps)
    assert 0 <= factor <= 1 + 1e-12
    if step < schedule.warmup_steps:
        assert factor == step / schedule.warmup_steps
    elif step >= total_steps:
        assert factor == schedule.final_lr_fraction


@given(
    step=st.integers(0, 150), schedule=SCHEDULES, total_steps=st.floats(100, 130), shift=st.floats(-0.5, 0.5)
)
def test_an_estimate_that_moves_a_little_moves_the_factor_a_little(step, schedule, total_steps, shift):
    """Half a step of another end changes it by no more than the steepest step of the fall, or of its end."""
    room = min(schedule.decay_fraction * 99, 39)
    steepest = max(math.pi / 2 / 39, 1 / room)
    before, after = (lr_factor(step, schedule, total) for total in (total_steps, total_steps + shift))
    assert abs(before - after) <= steepest + 1e-9


@given(schedule=SCHEDULES, total_steps=st.integers(61, 300))
def test_the_factor_is_the_schedule_the_config_names(schedule, total_steps):
    last, warmup_steps = schedule.final_lr_fraction, schedule.warmup_steps
    for step in range(0, total_steps + 1, 7):
        if schedule.name == "cosine":
            expected = 0.5 * cosine_schedule(step, 2.0, 2 * last, warmup_steps, total_steps)
        else:
            decay_steps = schedule.decay_fraction * total_steps
            expected = 0.5 * wsd_schedule(step, 2.0, 2 * last, warmup_steps, decay_steps, total_steps)
        assert lr_factor(step, schedule, total_steps) == pytest.approx(expected)
    assert lr_factor(total_steps, schedule, total_steps) == last


@given(st.integers(0, 1000), st.floats(0, 1e6))
def test_a_warm_up_is_at_most_a_tenth_of_the_steps(warmup_steps, total_steps):
    fitted = fitted_warmup(warmup_steps, total_steps)
    assert fitted == pytest.approx(warmup_steps if total_steps >= 10 * warmup_steps else total_steps / 10)


def test_a_run_of_17_steps_is_at_the_peak_after_one():
    warmup_steps = fitted_warmup(100, 17)
    assert int(warmup_steps) == 1
    schedule = ScheduleConfig(name="wsd", warmup_steps=100)
    factors = [lr_factor(step, schedule, 17, warmup_steps) for step in range(1, 18)]
    assert factors[0] == pytest.approx(1 / 1.7)
    assert set(factors[1:13]) == {1.0}
    assert factors[-1] == 0.1


@given(
    first=st.integers(0, 1000),
    factor=st.floats(0.1, 1),
    length=st.integers(1, 500),
    total=st.one_of(st.just(math.inf), st.floats(1, 2000)),
)
def test_an_early_end_falls_in_a_straight_line_to_its_end_or_that_of_the_budget(first, factor, length, total):
    anneal = Anneal(first, factor, first + length)
    end = min(first + length, max(total, first + 1))
    factors = [anneal.lr_factor(step, 0.1, end) for step in range(first, first + length + 2)]
    assert factors[0] == pytest.approx(factor)
    for step, value in enumerate(factors, first):
        assert value == pytest.approx(max(0, end - step) / (end - first) * (factor - 0.1) + 0.1)


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1e6))
def test_a_decay_that_begins_early_is_the_same_fraction_of_a_shorter_run(step, fraction, steps_left):
    length = anneal_steps(step, fraction, steps_left)
    assert 0 <= length <= steps_left
    if 0 < length < steps_left:
        assert length == pytest.approx(fraction * (step + length))


@given(st.integers(50, 300), st.floats(0.05, 1))
def test_within_the_decay_an_early_end_is_the_decay_that_goes_on(total_steps, fraction):
    schedule = ScheduleConfig(name="wsd", warmup_steps=0, decay_fraction=fraction)
    begin = math.ceil(total_steps * (1 - fraction))
    for step in range(begin, total_steps, 7):
        length = anneal_steps(step, fraction, total_steps - step)
        assert length == pytest.approx(total_steps - step)
        anneal = Anneal(step, lr_factor(step, schedule, total_steps), total_steps)
        for later in range(step, total_steps + 1):
            expected = lr_factor(later, schedule, total_steps)
            assert anneal.lr_factor(later, 0.1, total_steps) == pytest.approx(expected)
