"""The training loop: `Trainer.train`.

A step is `Trainer.take_step` (batch, learning rate) and `Learner.learn` (forward, backward, clipping,
optimizer). The mathematics is in nn and optim, the order of the data in data, the file formats in checkpoint;
loggers receive the metrics. Losses and norms stay on the device until they are logged; every host sync is
commented.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from transformerlm.checkpoint.load_state import as_checkpoint_error
from transformerlm.checkpoint.run_directory import RunDirectory, check_same_run, environment, identity
from transformerlm.checkpoint.store import Checkpoint, checkpoint_name
from transformerlm.config import TrainConfig
from transformerlm.control import RunControl
from transformerlm.data import TokenData, make_sampler
from transformerlm.distributed.ranks import SINGLE_PROCESS, Ranks
from transformerlm.errors import OutputError, TransformerLMError
from transformerlm.evaluation.loss import Validation
from transformerlm.logging import Logger, names, to_floats
from transformerlm.nn import training_flops_per_token
from transformerlm.progress import Bar, Reporter
from transformerlm.runtime import Runtime, ThreadAdapter, measured_flops_ceiling
from transformerlm.schema import to_dict
from transformerlm.storage.files import make_directory
from transformerlm.training.batches import Batches
from transformerlm.training.budget import make_budget
from transformerlm.training.faults import decide, roll_back
from transformerlm.training.learner import Learner, StepResult
from transformerlm.training.rank_sync import make_rank_sync
from transformerlm.training.run_state import RunState
from transformerlm.training.steering import obey
from transformerlm.training.step_guard import StepGuard, Verdict
from transformerlm.training.step_values import step_values
from transformerlm.training.timers import SAMPLING, SAVING, STARTING, VALIDATING, Clock
from transformerlm.training.validating import evaluate_split, measured_seconds, validation_values

MAX_CEILING_SECONDS = 0.25
"""Duration of the measurement of the FLOPs ceiling, which is shorter where little time is given."""
EXPECTED_UTILISATION = 0.25
"""Fraction of the FLOPs ceiling that steps are expected to reach, until their pace has been measured."""


class Trainer:
    """Training of one model: `train()` is the loop, the other methods are its parts.

    Initial weights come from torch's global generator; `restore` loads a checkpoint. Each of several ranks
    has a Trainer, on which the same methods are called at the same time; only rank 0 logs and writes.

    Args:
        config: with a known `model.vocab_size`.
        now: clock in seconds, for a budget in time.
        started: moment by `now` from which the run's time counts; None: the call of `train`.
        draw_weights: False if weights will be loaded before the first step.
        threads: adapts the number of CPU threads to the machine's other work; None: it stays.
        control: takes the run's status and requests to it; None: there are no requests.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: TokenData,
        run: RunDirectory,
        runtime: Runtime,
        reporter: Reporter,
        now: Callable[[], float] = time.perf_counter,
        ranks: Ranks = SINGLE_PROCESS,
        *,
        started: float | None = None,
        draw_weights: bool = True,
        threads: ThreadAdapter | None = None,
        control: RunControl | None = None,
    ) -> None:
        self.config, self.data, self.run, self.runtime, self.reporter = config, data, run, runtime, reporter
        self.ranks, self.started, self.threads = ranks, started, threads
        self.control = control or RunControl()
        self.learner = Learner(config, runtime, reporter, ranks, draw_weights=draw_weights)
        self.model = self.learner.model
        context_length, seed = config.model.context_length, config.runtime.seed
        self.sampler = make_sampler(data, config.training, context_length, seed)
        self.batches = Batches(self.sampler, runtime, ranks)
        self.clock = Clock(now)
        self.rank_sync = make_rank_sync(self.clock, ranks, self.control.poll)
        validation_tokens = data.val.num_tokens if data.val else 0
        self.budget = make_budget(config, self.rank_sync.clock, data.pass_tokens, validation_tokens)
        self.step_guard = StepGuard(config.training, runtime.device)
        self.step = 0
        """Completed optimizer steps."""
        self.undecided: deque[tuple[int, StepResult]] = deque()
        """Steps whose verdict the host has not read yet; of a device that is not asynchronous none."""
        self.best: Validation | None = None
        self.newest: Validation | None = None
        self.since_best = 0
        """Validations after the best one."""
        self.is_complete = False
        """True if no further step will be taken."""
        self.saved: tuple[int, bool] | None = None
        """Step of the checkpoint that was written or loaded last, and its `is_complete`."""
        self.flops_ceiling = math.inf
        self.last_lap = self.clock.lap()
        """Steps and seconds up to the last record of metrics."""
        self.write_samples: Callable[[], object] = lambda: None
        """Writes samples during training (samples.py); called by all ranks."""

    @property
    def flops_per_token(self) -> float:
        """FLOPs of a training step for each of its tokens."""
        return training_flops_per_token(self.config.model, self.config.model.context_length)

    @property
    def chosen(self) -> Validation | None:
        """The validation whose weights are the result of a complete run: the best, or an equal newest one."""
        if self.best and self.newest and self.best.evaluation.loss < self.newest.evaluation.loss:
            return self.best
        return self.newest

    def train(self, logger: Logger) -> int:
        """Train to the end of the budget or to a signal; return 0, or 128 + the signal's number.

        Raises:
            NumericalError: loss or gradient is not finite, and [training].on_nonfinite is "stop".
            OutputError: the last checkpoint cannot be written (for others that is a warning).
            TransformerLMError: out of memory for a single sequence.
        """
        self.prepare()
        self.is_complete = False
        with (
            self.rank_sync.signals,
            self.batches.prepared_ahead(),
            self.reporter.bar(*self.budget.bar, "training") as bar,
        ):
            shown = 0
            self.rank_sync.sync()
            if self.step == 0 and self.config.training.on_nonfinite == "rollback":
                self.save(logger)  # for a rollback of the first steps
            while True:
                while not (is_last := self.budget.is_spent(self.step)) and not self.rank_sync.received:
                    result = self.take_step()
                    self.rank_sync.sync()
                    if self.decide_steps(logger, all_of_them=self.is_due_to_wait()):
                        self.after_step(result, logger, bar)
                    obey(self, logger)
                    bar.update(self.budget.used(self.step) - shown)
                    shown = self.budget.used(self.step)
                if self.decide_steps(logger, all_of_them=True):
                    break
            if is_last:  # even if a signal came in the last step: the run is complete
                self.is_complete = True
                self.budget.complete(self.step)
                self.validate(logger)
            self.save(logger, is_last=True)
        return self.rank_sync.exit_status

    def take_step(self) -> StepResult:
        """Take one optimizer step over one global batch, unless the step guard refuses it."""
        training, step = self.config.training, self.step + 1
        # Set for the step that it governs: the first step already learns, the last one has the minimum.
        factor = self.budget.lr_factor(step)
        measure_norms = self.config.logging.activation_norms and is_due(step, training.log_every)
        self.clock.spend_on_step(times=0)
        inputs, targets = self.batches.batch(self.step + self.step_guard.num_left_out)
        self.clock.spend_on_data()
        result = self.learner.learn(inputs, targets, factor, measure_norms, self.step_guard)
        self.step = step
        self.undecided.append((step, result))
        self.clock.spend_on_step()
        return result

    def is_due_to_wait(self) -> bool:
        """Return True if the verdict on this step is needed now, and not while the next one is computed."""
        if not self.runtime.asynchronous or self.budget.is_spent(self.step):
            return True
        training = self.config.training
        logging, validating = training.log_every, training.validate_every
        every = logging, validating, training.sample_every or 0, training.checkpoint_every
        is_asked = bool(self.rank_sync.received or self.rank_sync.requested)
        return is_asked or any(is_due(self.step, number) for number in every)

    def decide_steps(self, logger: Logger, *, all_of_them: bool) -> bool:
        """Read the verdicts on the steps so far, or on all but the newest, and act on faults.

        Returns:
            False if the run has gone back to a checkpoint.
        """
        while len(self.undecided) > (0 if all_of_them else 1):
            step, result = self.count_step()
            is_fault = result.decision is not None and result.decision.verdict is Verdict.NONFINITE
            if is_fault and decide(self, step, result) == "rollback":
                roll_back(self, step, result, logger)
                return False
        if self.runtime.asynchronous:
            self.clock.spend_on_step(times=0)  # the wait is part of the steps
        return True

    def count_step(self) -> tuple[int, StepResult]:
        """Read and count the verdict on the oldest step that has none (host sync)."""
        step, result = self.undecided.popleft()
        if result.decision:
            self.step_guard.count(result.decision.verdict, result.decision.is_spike)
        return step, result

    def after_step(self, result: StepResult, logger: Logger, bar: Bar) -> None:
        """Log, validate, sample and save if it is due. After the last step `train` validates and saves."""
        training, is_last = self.config.training, self.budget.is_spent(self.step)
        self.adapt_threads(logger)
        if is_last or is_due(self.step, training.log_every):
            self.log_step(result, logger, bar)
        if is_last:
            return
        if is_due(self.step, training.validate_every) and self.budget.has_room_for(VALIDATING, self.step):
            self.validate(logger)
            self.end_early_if_no_better()
        if is_due(self.step, training.sample_every or 0) and self.budget.has_room_for(SAMPLING, self.step):
            self.write_samples()  # before the checkpoint of this step: none is written twice
        is_new_best = self.best is not None and self.best.step == self.step
        is_wanted = is_new_best or is_due(self.step, training.checkpoint_every)
        if is_wanted and self.budget.has_room_for(SAVING, self.step):
            self.save(logger)

    def end_early_if_no_better(self) -> None:
        """Let the learning rate fall to its end after [training].patience validations without progress."""
        patience = self.config.training.patience
        if patience is None or self.since_best < patience or self.budget.anneal is not None:
            return
        assert self.best
        last_step = self.budget.begin_anneal(self.step).last_step
        what = f"validation loss: no lower than at step {self.best.step} in {self.since_best} validations"
        self.reporter.say(
            f"{what}: the learning rate falls from now on, until step {last_step} at the latest"
        )

    def prepare(self) -> None:
        """Compile, wrap the model for several ranks, measure the FLOPs ceiling, make the run's folder."""
        self.clock.start(self.started)
        self.learner.prepare()
        # All ranks use the same numbers, since the learning rate depends on them.
        seconds = min(MAX_CEILING_SECONDS, (self.config.training.max_seconds or math.inf) / 400)
        ceilings = self.ranks.all_gather_numbers([measured_flops_ceiling(self.runtime, seconds)])
        self.flops_ceiling = sum(ceiling for (ceiling,) in ceilings)
        flops = self.flops_per_token * self.budget.tokens_per_step
        self.budget.expected_pace = flops / self.flops_ceiling / EXPECTED_UTILISATION
        if self.config.training.max_time is not None and self.newest is None:
            self.budget.pauses.validating_seconds = measured_seconds(self.learner, self.data, self.clock)
        self.clock.spend(STARTING)
        self.last_lap = self.clock.lap()
        make_directory(self.run.path)

    def log_step(self, result: StepResult, logger: Logger, bar: Bar) -> None:
        """Fetch a step's numbers and log them (host sync)."""
        lap, self.last_lap = self.clock.lap() - self.last_lap, self.clock.lap()
        values = step_values(self, result, lap)
        if self.config.logging.weight_norms:
            values |= to_floats(self.learner.weight_norms())
        logger.log(values, self.step)
        bar.set_postfix_str(f"loss {result.loss:.3f}, {values[names.TOKENS_PER_SECOND]:,.0f} tokens/s")

    def adapt_threads(self, logger: Logger) -> None:
        """Record a change of the number of threads: from then on the last bits of results may differ."""
        lap = self.clock.lap()
        if self.threads and (change := self.threads.after_steps(lap.steps, lap.seconds)):
            logger.log({names.NUM_THREADS: change.num_threads}, self.step)
            if change.is_lasting:
                self.reporter.say(f"step {self.step}: {change}")

    def validate(self, logger: Logger) -> None:
        """Evaluate on the whole validation split, unless that was done after this step."""
        if self.data.val is None or (self.newest and self.newest.step == self.step):
            return
        self.control.beat(self.step, VALIDATING)
        self.clock.spend_on_step(times=0)
        found, corpora = evaluate_split(self.learner, self.data)
        self.newest = Validation(self.step, found)
        self.since_best += 1
        if self.best is None or found.loss < self.best.evaluation.loss:
            self.best, self.since_best = self.newest, 0
        logger.log(validation_values(found, corpora), self.step)
        self.clock.spend(VALIDATING)
        self.rank_sync.sync()

    def save(self, logger: Logger, *, is_last: bool = False) -> None:
        """Write a checkpoint of this step, unless there is one, and prune older ones.

        If it cannot be written, the run continues with a warning; at the end of the run that is an error.
        """
        if self.saved == (self.step, self.is_complete):
            return
        self.control.beat(self.step, SAVING)
        self.clock.spend_on_step(times=0)
        state = self.state()
        try:
            state.write(self.run, self.config.training.keep_checkpoints, self.learner.parallelism)
            with self.ranks.while_rank_0_works():
                path = self.run.checkpoints / checkpoint_name(self.step)
                logger.log_artifact(path, f"checkpoint-{self.run.path.name}", "checkpoint")
            self.saved = self.step, self.is_complete
        except TransformerLMError as error:
            if is_last or error.exit_status != OutputError.exit_status:
                raise
            self.reporter.say(f"warning: step {self.step} is not saved: {error}; training goes on")
        self.clock.spend(SAVING)
        self.rank_sync.sync()

    def state(self) -> RunState:
        """Return the content of a checkpoint, divided as the model is."""
        while self.undecided:
            self.count_step()
        return RunState(
            step=self.step,
            weights=self.learner.model_state(),
            learner=self.learner.state(),
            step_guard=self.step_guard.state(),
            best=self.best,
            newest=self.newest,
            config=to_dict(self.config),
            identity=identity(self.config, self.data),
            environment=environment(self.ranks.size),
            micro_batch_size=self.learner.micro_batches.size,
            clock=self.clock.state(),
            completed_seconds=self.budget.completed_seconds,
            since_best=self.since_best,
            budget=self.budget.state(),
            is_complete=self.is_complete,
        )

    def restore(self, found: Checkpoint) -> None:
        """Resume from a checkpoint of this run.

        Raises:
            CheckpointError: it is of another model, tokenizer or data.
        """
        now, what = identity(self.config, self.data), f"{found.path}: what it says of its run"
        with self.ranks.while_rank_0_works(), as_checkpoint_error(what):
            check_same_run(found, now, self.config, self.reporter, self.ranks.size)
        state = self.load(found)
        with self.ranks.collective_errors(), as_checkpoint_error(what):
            self.step_guard.load(state.step_guard)
            self.clock.load(state.clock)
            self.budget.completed_seconds = state.completed_seconds
        before, size = state.micro_batch_size, self.learner.micro_batches.size
        if before not in (None, size):
            self.reporter.say(f"micro-batches of {before} -> {size} sequences: not to the same last bits")

    def load(self, found: Checkpoint) -> RunState:
        """Load model, optimizer, random state and validations from a checkpoint; return its state."""
        parallelism = self.learner.parallelism
        weights = parallelism.read(found.model_state)
        training = parallelism.read(found.training_state, below="optimizer.")
        with self.ranks.collective_errors():
            self.learner.load(weights, training, str(found.path))
            state = RunState.read(found, weights, training)
            with as_checkpoint_error(f"{found.path}: the training state"):
                self.budget.load(state.budget)
        self.best, self.newest, self.since_best = state.best, state.newest, state.since_best
        self.step, self.saved = found.step, (found.step, state.is_complete)
        return state


def is_due(step: int, every: int) -> bool:
    """Return True if `step` is a multiple of `every` (0: never)."""
    return every > 0 and step % every == 0
