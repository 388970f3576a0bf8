import dataclasses
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.config import ModelConfig, ScheduleConfig, TrainConfig, TrainingConfig
from transformerlm.optim import lr_factor
from transformerlm.training.budget import make_budget
from transformerlm.training.timers import SAMPLING, SAVING, STARTING, VALIDATING, Clock

CONFIG = TrainConfig(
    model=ModelConfig(vocab_size=64, context_length=16, d_model=16, num_layers=1, num_heads=2, d_ff=32),
    schedule=ScheduleConfig(warmup_steps=20),
    training=TrainingConfig(batch_size=4, max_time="1000s", validate_every=0, checkpoint_every=0),
)
TOKENS_PER_STEP = 64
TRAIN_TOKENS = 6400
"""A pass is a hundred steps."""


def with_training(schedule=None, **values) -> TrainConfig:
    training = dataclasses.replace(CONFIG.training, **values)
    return dataclasses.replace(CONFIG, training=training, schedule=schedule or CONFIG.schedule)


def test_steps_and_tokens_are_a_number_of_steps():
    clock = Clock(lambda: 0.0)
    steps = make_budget(with_training(max_steps=50, max_time=None), clock, TRAIN_TOKENS)
    tokens = make_budget(
        with_training(max_tokens=50 * TOKENS_PER_STEP - 1, max_time=None), clock, TRAIN_TOKENS
    )
    for budget in (steps, tokens):
        assert [budget.is_spent(step) for step in (0, 49, 50, 51)] == [False, False, True, True]
        assert budget.schedule_steps(7) == 50
        assert budget.has_room_for(VALIDATING, 49)
        assert budget.seconds_left(40, 0.5) == 5.0
        assert budget.whole_run(2.0)[0] == 50
    assert (steps.bar, steps.used(7), steps.done(7)) == ((50, "step"), 7, "7 of 50 steps done")
    assert tokens.bar == (3199, "token")
    assert (tokens.used(49), tokens.used(50)) == (3136, 3199)
    assert tokens.done(50) == "3,199 of 3,199 tokens done"
    assert str(steps) == "50 steps of 64 tokens"
    assert str(tokens) == "3,199 tokens in 50 steps of 64"


class Machine:
    """A run's time without a run: steps, validations and saves take what they are told to.

    The loop is the trainer's, without everything that is no matter of time.
    """

    def __init__(
        self,
        config,
        step_seconds=lambda step: 1.0,
        validating=lambda: 0.0,
        saving=lambda: 0.0,
        sampling=lambda: 0.0,
    ):
        self.config, self.time, self.step = config, 0.0, 0
        self.step_seconds, self.validating, self.saving = step_seconds, validating, saving
        self.sampling, self.sampled, self.sampling_seconds = sampling, [], 0.0
        self.validated, self.factors, self.ending_seconds = [], [], 0.0
        # 20 steps' time, as a validation of this many tokens is guessed to take
        self.tokens = 3 * 20 * TOKENS_PER_STEP if config.training.validate_every else 0

    def start(self, state=None, completed_seconds=0.0, since=None):
        self.clock = Clock(lambda: self.time)
        self.budget = make_budget(self.config, self.clock, TRAIN_TOKENS, self.tokens)
        if state:
            self.clock.load(state)
            self.budget.completed_seconds = completed_seconds
        self.budget.pauses.ending_seconds = self.ending_seconds
        self.budget.pauses.sampling_seconds = self.sampling_seconds
        self.clock.start(since)
        self.clock.spend(STARTING)

    def run(self, stop_at=None):
        while not (is_last := self.budget.is_spent(self.step)) and self.step != stop_at:
            self.factors.append(self.budget.lr_factor(self.step + 1))
            self.spend(self.step_seconds(self.step), self.clock.spend_on_step)
            self.step += 1
            if not self.budget.is_spent(self.step):
                self.pause()
        if is_last:
            self.budget.complete(self.step)
            self.spend(self.validating(), self.clock.spend, VALIDATING)
            self.spend(self.saving(), self.clock.spend, SAVING)
            self.time += self.sampling() + self.ending_seconds
        return self

    def pause(self):
        training = self.config.training
        is_due = bool(training.validate_every) and self.step % training.validate_every == 0
        if is_due and self.budget.has_room_for(VALIDATING, self.step):
            self.validated.append(self.step)
            self.spend(self.validating(), self.clock.spend, VALIDATING)
        if is_due and self.budget.has_room_for(SAVING, self.step):
            self.spend(self.saving(), self.clock.spend, SAVING)

        every = training.sample_every
        if every and self.step % every == 0 and self.budget.has_room_for(SAMPLING, self.step):
            self.sampled.append(self.step)
            self.spend(self.sampling(), self.clock.spend, SAMPLING)

    def spend(self, seconds, spend, *kind):
        self.time += seconds
        spend(*kind)

    def changes(self):
        """Of the learning rate from step to step, after the warm-up."""
        after = self.factors[self.config.schedule.warmup_steps :]
        return [right - left for left, right in itertools.pairwise(after)]


def started(*args, **kwargs) -> Machine:
    machine = Machine(*args, **kwargs)
    machine.start()
    return machine


@pytest.mark.parametrize("name", ["cosine", "wsd"])
def test_at_a_steady_pace_a_time_is_as_good_as_the_steps_it_comes_to(name):
    schedule = ScheduleConfig(name=name, warmup_steps=20)
    machine = started(with_training(schedule)).run()
    assert (machine.step, machine.time) == (1000, 1000.0)
    expected = [lr_factor(step, schedule, 1000) for step in range(1, 1001)]
    # but for the tenth of a millisecond that the first save is guessed to take
    assert machine.factors == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["cosine", "wsd"])
@pytest.mark.parametrize("seed", range(5))
def test_an_uneven_pace_ends_annealed_and_in_time_and_never_raises_the_rate(name, seed):
    draw = random.Random(seed)
    slow = draw.choice([0.3, 1.0, 4.0])  # from the middle of the time on, as when other work begins or ends
    machine = started(with_training(ScheduleConfig(name=name, warmup_steps=20)))
    machine.step_seconds = lambda step: draw.uniform(0.5, 2) * (slow if machine.time > 500 else 1)
    machine.run()
    assert abs(machine.time - 1000) <= 2 * slow  # a step
    assert machine.factors[-1] == pytest.approx(0.1, abs=0.03)
    changes = machine.changes()
    assert max(changes) <= 1e-9
    # What a step of this length takes of 1,000 seconds; "wsd" falls by 0.9 in a fifth of them.
    assert min(changes) > -(0.9 / 200) * 2 * max(slow, 1) * 1.3


def test_the_first_steps_do_not_count():
    cold = started(CONFIG, step_seconds=lambda step: 50.0 if step < 3 else 1.0).run()
    assert (cold.step, cold.time) == (853, 1000.0)
    assert cold.factors[:30] == pytest.approx([lr_factor(s, CONFIG.schedule, 853) for s in range(1, 31)])


def test_one_slow_step_hardly_moves_the_rate():
    machine = started(CONFIG, step_seconds=lambda step: 30.0 if step == 400 else 1.0).run()
    assert machine.time == pytest.approx(1000, abs=1)
    assert min(machine.changes()) > -0.9 * 1.6 * 31 / 1000  # the part of the schedule that it takes
    assert machine.factors[-1] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("seconds", [0.0, 5.0, 20.0])
def test_validating_and_saving_are_part_of_the_time(seconds):
    draw = random.Random(1)
    machine = started(
        with_training(validate_every=100, checkpoint_every=100),
        step_seconds=lambda step: draw.uniform(0.8, 1.2),
        validating=lambda: seconds,
        saving=lambda: seconds / 4,
    ).run()
    assert machine.time == pytest.approx(1000, abs=1.5)
    last = machine.step // 100 * 100
    assert machine.validated in (list(range(100, last + 1, 100)), list(range(100, last, 100)))
    assert machine.factors[-1] == pytest.approx(0.1, abs=0.005)
    # A validation was guessed to take 20 seconds; the first one shows that it takes less.
    assert max(machine.changes()) <= (0.01 if seconds < 20 else 0)
    assert min(machine.changes()) > -0.003  # twice what the steepest part of the cosine falls in a step


def test_validations_that_take_ever_longer_end_within_what_the_last_one_took_longer():
    lengths = iter(range(10, 1000, 5))
    config = with_training(validate_every=100, checkpoint_every=0)
    machine = started(config, validating=lambda: float(next(lengths))).run()
    assert 1000 <= machine.time <= 1000 + 5 * len(machine.validated)


def test_a_pause_that_leaves_no_room_is_left_to_the_end():
    config = with_training(max_time="120s", validate_every=100, checkpoint_every=100)
    machine = started(config, validating=lambda: 15.0, saving=lambda: 1.0)
    machine.clock.load({VALIDATING: [15.0, 1], SAVING: [1.0, 1]})
    machine.run()
    assert (machine.validated, machine.step, machine.clock.elapsed) == ([], 88, 120.0)


@pytest.mark.parametrize("stop", [1, 2, 5, 300, 870])
def test_pauses_between_processes_do_not_count_and_the_schedule_goes_on(stop):
    straight = started(CONFIG).run()
    machine = started(CONFIG).run(stop_at=stop)
    machine.time += 12345
    machine.start(machine.clock.state(), machine.budget.completed_seconds)
    machine.run()
    assert machine.step == 1000
    assert machine.clock.elapsed == 1000.0
    if stop >= 20:
        assert machine.factors == pytest.approx(straight.factors, abs=1e-9)


def test_a_budget_that_was_used_up_is_not_begun_again_and_one_that_has_grown_is():
    machine = started(CONFIG, validating=lambda: 7.3).run()
    state, completed = machine.clock.state(), machine.budget.completed_seconds
    # Saved before the last save was over: by its clock there would be time left.
    state[SAVING] = [0.0, 0]
    state[VALIDATING] = [1.0, 1]
    done, machine.config = machine.step, with_training(max_time="1000s")
    machine.start(state, completed)
    assert machine.run().step == done
    machine.config = with_training(max_time="900s")
    machine.start(state, completed)
    assert machine.run().step == done
    machine.config, machine.factors = with_training(max_time="2000s"), []
    machine.start(state, completed)
    machine.run()
    assert machine.step == pytest.approx(2 * done, abs=10)
    assert machine.clock.elapsed == pytest.approx(2000, abs=8)
    # The schedule is the one of the whole: it goes on in its middle and ends at its end.
    middle = lr_factor(done, CONFIG.schedule, machine.step)
    assert machine.factors[0] == pytest.approx(middle, abs=0.01)
    assert machine.factors[-1] == pytest.approx(0.1, abs=1e-3)


def test_cosine_steps_keep_their_meaning():
    machine = started(with_training(ScheduleConfig(warmup_steps=20, cosine_steps=300))).run()
    assert machine.step == 1000
    assert machine.factors == pytest.approx(
        [lr_factor(s, machine.config.schedule, 300) for s in range(1, 1001)]
    )


def test_a_time_shorter_than_a_step_is_one_step():
    machine = started(with_training(max_time="2s"), step_seconds=lambda step: 30.0).run()
    assert machine.step == 1


def test_what_a_time_says_of_itself():
    machine = started(with_training(max_time="1h30m"))
    budget = machine.budget
    assert str(budget) == "1h30m of steps of 64 tokens"
    assert budget.bar == (5400, "s")
    machine.time = 725.9
    assert budget.used(3) == 725
    assert budget.done(300) == "12m06s of 1h30m done, 300 steps"
    assert budget.seconds_left(300, 1.0) == pytest.approx(4674.1)


@given(st.floats(0.05, 20), st.integers(0, 300), st.integers(0, 300))
def test_the_whole_run_as_a_plan_has_it(pace, validate_every, checkpoint_every):
    every = {"validate_every": validate_every, "checkpoint_every": checkpoint_every}
    clock = Clock(lambda: 0.0)
    steps, seconds = make_budget(with_training(**every), clock, TRAIN_TOKENS, 640).whole_run(pace)
    assert seconds == 1000
    if steps >= 1:
        no_warmup = ScheduleConfig(warmup_steps=0)  # which would have to be shorter than the run
        config = with_training(no_warmup, **every, max_time=None, max_steps=int(steps))
        back = make_budget(config, clock, TRAIN_TOKENS, 640).whole_run(pace)
        assert back[0] == int(steps)
        assert 1000 - 2 * pace - 10 * pace <= back[1] <= 1000 + 1e-6


def test_start_and_end_of_the_command_are_part_of_the_time():
    machine = Machine(CONFIG, validating=lambda: 0.0)
    machine.time, machine.ending_seconds = 140.0, 60.0  # 40 s of them since the start of the command
    machine.start(since=100.0)
    machine.run()
    assert machine.time - 100 == pytest.approx(1000, abs=0.5)
    assert machine.step == 900
    assert machine.factors[-1] == pytest.approx(0.1, abs=1e-3)
    # A resumed run adds its own start.
    again = Machine(CONFIG)
    again.time, again.step = 5000.0, 300
    again.start({"steps": [300.0, 300]}, since=4980.0)
    again.run()
    assert (again.step, again.clock.elapsed) == (980, 1000.0)


@pytest.mark.parametrize("estimate", [0.0, 20.0, 60.0])
def test_samples_are_part_of_the_time(estimate):
    machine = Machine(with_training(sample_every=100), sampling=lambda: 20.0)
    machine.sampling_seconds = estimate
    machine.start()
    machine.run()
    # Eight times under way, and once at the end: 180 s.
    assert machine.sampled == list(range(100, 900, 100))
    assert machine.step == pytest.approx(820, abs=1)
    assert machine.time == pytest.approx(1000, abs=1)
    assert machine.factors[-1] == pytest.approx(0.1, abs=2e-3)


def test_samples_at_the_end_alone_are_estimated_before():
    machine = Machine(CONFIG, sampling=lambda: 20.0)
    machine.sampling_seconds = 20.0
    machine.start()
    machine.run()
    assert (machine.sampled, machine.step, machine.time) == ([], 980, pytest.approx(1000, abs=0.5))


def test_a_time_that_is_over_at_the_start_is_one_step_and_a_resumed_run_of_it_none():
    machine = Machine(with_training(max_time="2s"))
    machine.time = 3.0
    machine.start(since=0.0)
    assert machine.run().step == 1
    machine.start(machine.clock.state())
    assert machine.run().step == 1


@pytest.mark.parametrize("budget", [{"max_steps": 500}, {"max_tokens": 32000}, {"max_time": "500s"}, {}])
@pytest.mark.parametrize("name", ["cosine", "wsd"])
def test_passes_end_a_run_of_any_budget_with_its_schedule(name, budget):
    schedule = ScheduleConfig(name=name, warmup_steps=20)
    values = {"max_time": None, **budget}
    machine = started(with_training(schedule, max_passes=2.5, **values)).run()
    assert (machine.step, machine.budget.ended_by(machine.step)) == (250, "passes")
    assert machine.factors == pytest.approx([lr_factor(step, schedule, 250) for step in range(1, 251)])
    if budget:  # it is not lengthened by more passes than there is time for
        longer = started(with_training(schedule, max_passes=9, **values)).run()
        assert (longer.step, longer.budget.ended_by(longer.step)) == (500, "budget")


def test_a_time_that_passes_have_ended_is_not_used_up():
    config = with_training(max_passes=1)
    machine = started(config).run()
    assert (machine.step, machine.budget.completed_seconds) == (100, 0.0)
    machine.config = with_training(max_passes=3)
    machine.start(machine.clock.state(), machine.budget.completed_seconds)
    assert machine.run().step == 300


@pytest.mark.parametrize("pace", [1.0, 60.0])
def test_no_time_ends_in_the_warm_up(pace):
    schedule = ScheduleConfig(name="wsd", warmup_steps=100)
    machine = started(with_training(schedule), step_seconds=lambda step: pace)
    machine.budget.expected_pace = pace * 1.5
    machine.run()
    peak = machine.factors.index(max(machine.factors)) + 1
    assert max(machine.factors) == 1.0
    assert peak == {1.0: 100, 60.0: 2}[pace]
    assert machine.factors[-1] == pytest.approx(0.1)


def test_steps_that_were_chosen_keep_their_warm_up():
    schedule = ScheduleConfig(warmup_steps=20)
    machine = started(with_training(schedule, max_steps=50, max_time=None)).run()
    assert machine.factors == pytest.approx([lr_factor(step, schedule, 50) for step in range(1, 51)])


@pytest.mark.parametrize("budget", [{"max_steps": 1000, "max_time": None}, {"max_time": "1000s"}])
@pytest.mark.parametrize("name", ["cosine", "wsd"])
def test_an_early_end_falls_from_where_it_is_and_goes_on_after_a_stop(name, budget):
    config = with_training(ScheduleConfig(name=name, warmup_steps=20, decay_fraction=0.2), **budget)
    machine = started(config).run(stop_at=400)
    assert machine.budget.begin_anneal(400).last_step == 500  # of 500 steps a fifth
    assert machine.budget.begin_anneal(400) is machine.budget.anneal
    state, clock = machine.budget.state(), machine.clock.state()
    machine.run()
    assert (machine.step, machine.budget.ended_by(machine.step)) == (500, "anneal")
    assert max(machine.changes()) <= 0
    assert machine.factors[449] == pytest.approx((machine.factors[399] + 0.1) / 2, abs=2e-3)
    assert machine.factors[-1] == pytest.approx(0.1)

    resumed = Machine(config)
    resumed.step = 400
    resumed.start(clock)
    resumed.budget.load(state)
    resumed.run()
    assert resumed.factors == machine.factors[400:]


def test_an_early_end_ends_with_the_time_if_that_comes_first_and_belongs_to_its_budget():
    config = with_training(ScheduleConfig(name="wsd", warmup_steps=20, decay_fraction=0.5))
    machine = started(config, step_seconds=lambda step: 1.0 if step < 400 else 2.0).run(stop_at=400)
    assert machine.budget.begin_anneal(400).last_step == 800
    machine.run()
    assert (machine.time, machine.budget.ended_by(machine.step)) == (1000.0, "budget")
    assert machine.factors[-1] == pytest.approx(0.1, abs=5e-3)

    state = machine.budget.state()
    longer = started(with_training(max_time="2000s"))
    longer.budget.load(state)
    assert longer.budget.anneal is None
