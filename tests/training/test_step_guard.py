import json
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from transformerlm.config import TrainingConfig
from transformerlm.errors import NumericalError
from transformerlm.optim import gradient_norms
from transformerlm.training.step_guard import (
    MIN_SAMPLES,
    WINDOW,
    StepGuard,
    Verdict,
    first_not_finite,
    is_spike,
)

sound = st.floats(0.1, 100)


def check(guard, loss, norm, can_rescale=False):
    """Check a step, and count it as the host does."""
    checked = guard.check(torch.tensor(loss), torch.tensor(norm), torch.tensor(can_rescale))
    verdict = Verdict(checked.verdict.item())
    guard.count(verdict, checked.is_spike.item())
    return verdict


@given(st.lists(sound, max_size=WINDOW), st.floats(-1e3, 1e3), st.floats(0.5, 10))
def test_a_spike_is_far_above_the_mean(before, value, deviations):
    window = torch.tensor([math.nan] * (WINDOW - len(before)) + before, dtype=torch.float64)
    got = is_spike(window, torch.tensor(value, dtype=torch.float64), deviations).item()
    if len(before) < MIN_SAMPLES:
        assert not got
        return
    limit = statistics.fmean(before) + deviations * statistics.pstdev(before)
    if not math.isclose(value, limit, rel_tol=1e-9):
        assert got == (value > limit)


def quiet(guard, number):
    """Steps that are a little unlike each other."""
    for index in range(number):
        assert check(guard, 2 + index % 5 / 10, 1 + index % 3 / 10) is Verdict.TAKE


@pytest.mark.parametrize(("loss", "norm"), [(5.0, 1.0), (2.0, 9.0), (5.0, 9.0)])
@pytest.mark.parametrize("skip", [False, True])
def test_spikes_of_loss_or_norm_are_counted_once_and_skipped_where_asked(loss, norm, skip):
    guard = StepGuard(TrainingConfig(skip_spikes=skip))
    quiet(guard, 50)
    assert check(guard, loss, norm) is (Verdict.SKIP if skip else Verdict.TAKE)
    assert (guard.num_spikes, guard.num_skipped) == (1, int(skip))


def test_a_run_that_has_come_to_another_level_is_let_go_on():
    guard = StepGuard(TrainingConfig(skip_spikes=True))
    quiet(guard, WINDOW)
    verdicts = [check(guard, 5.0, 1.0) for _ in range(20)]
    assert verdicts[0] is Verdict.SKIP
    assert verdicts[-1] is Verdict.TAKE


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_a_fault_and_nothing_to_compare_with(bad):
    guard = StepGuard(TrainingConfig())
    quiet(guard, 40)
    before = guard.state()
    assert check(guard, bad, 1.0) is Verdict.NONFINITE
    assert check(guard, 2.0, bad) is Verdict.NONFINITE
    assert guard.state() == {**before, "num_in_a_row": 2}
    # A lower loss scale may help a gradient, and no loss.
    assert check(guard, 2.0, bad, can_rescale=True) is Verdict.OVERFLOW
    assert check(guard, bad, bad, can_rescale=True) is Verdict.NONFINITE
    assert guard.state() == {**before, "num_in_a_row": 3, "num_skipped": 1}


def test_policies():
    with pytest.raises(NumericalError, match=r'it broke; no checkpoint has it.*"skip" or "rollback"'):
        StepGuard(TrainingConfig()).decide("it broke")
    for policy in ("skip", "rollback"):
        guard = StepGuard(TrainingConfig(on_nonfinite=policy, max_faults=3))
        for _ in range(2):
            check(guard, math.nan, 1.0)
            assert guard.decide("it broke") == policy
        check(guard, math.nan, 1.0)
        with pytest.raises(NumericalError, match=r"it broke;.*max_faults = 3 is reached"):
            guard.decide("it broke")
    guard = StepGuard(TrainingConfig(on_nonfinite="rollback", max_faults=2))
    for _ in range(2):
        check(guard, math.nan, 1.0)
        guard.decide("it broke")
        guard.leave_out(7)
        quiet(guard, 5)
    check(guard, math.nan, 1.0)
    with pytest.raises(NumericalError):
        guard.decide("it broke")
    assert (guard.num_rollbacks, guard.num_left_out, guard.num_skipped) == (2, 14, 0)


@given(st.lists(st.tuples(sound, sound), max_size=2 * WINDOW), st.integers(0, 2 * WINDOW))
def test_its_state_survives_as_json(steps, stop):
    config = TrainingConfig(skip_spikes=True, spike_deviations=2)
    straight, stopped = StepGuard(config), StepGuard(config)
    expected = [check(straight, *step) for step in steps]
    got = [check(stopped, *step) for step in steps[:stop]]
    again = StepGuard(config)
    again.load(json.loads(json.dumps(stopped.state())))
    assert got + [check(again, *step) for step in steps[stop:]] == expected
    assert again.state() == straight.state()


def test_old_checkpoints_have_no_state():
    guard = StepGuard(TrainingConfig())
    guard.load({})
    assert guard.state() == StepGuard(TrainingConfig()).state()


def test_the_first_that_is_not_finite():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()

    def first():
        return first_not_finite(model, gradient_norms([p.grad for p in model.parameters()]))

    assert first() == "no parameter and no gradient"
    model[1].bias.grad[0] = math.inf
    model[1].weight.grad[0, 0] = math.nan
    assert first() == "the gradient of 1.weight"
    with torch.no_grad():
        model[1].bias[1] = math.nan
    assert first() == "1.bias"
