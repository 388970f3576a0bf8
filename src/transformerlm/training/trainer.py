"""Training: a config, token files and a tokenizer in; a run directory with a trained model out.

The Trainer owns the loop and nothing else: the mathematics is in nn and optim, the order of the data
in data, the formats in checkpoint and rundir, and where metrics go is the loggers' business. Losses
and norms stay on the device until they are logged; every place where the host waits says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from transformerlm.checkpoint.load_state import as_checkpoint_error
from transformerlm.checkpoint.run_directory import RunDirectory, check_same_run, environment, identity
from transformerlm.checkpoint.store import Checkpoint
from transformerlm.config import TrainConfig
from transformerlm.data import BatchSampler, TokenData, TokenFile, validation_windows
from transformerlm.data.sampler import Batch
from transformerlm.distributed.collectives import collective_errors, while_rank_0_works
from transformerlm.distributed.world import SINGLE_PROCESS, World
from transformerlm.errors import OutputError, TransformerLMError
from transformerlm.evaluation.loss import Evaluation, Validation, evaluate, own_share
from transformerlm.logging import Logger, names, to_floats
from transformerlm.nn import TransformerLM, training_flops_per_token
from transformerlm.optim import lr_factor
from transformerlm.progress import Bar, Reporter
from transformerlm.runtime import Runtime, measured_flops_ceiling
from transformerlm.schema import to_dict
from transformerlm.storage.files import make_directory
from transformerlm.training.budget import make_budget
from transformerlm.training.learner import Learner, StepResult
from transformerlm.training.rank_sync import Lockstep
from transformerlm.training.step_guard import Guard, Verdict
from transformerlm.training.timers import SAVING, STARTING, VALIDATING, Clock


class Trainer:
    """Trains one model on one device. `train()` does it all; the other methods are its parts.

    `config.model.vocab_size` must be known. The model starts from [runtime].seed, or from the run
    directory's newest valid checkpoint, as [training].resume says. `now` gives the seconds that a budget in
    time is counted in.

    Several ranks have one each, all do the same at the same time, and rank 0 alone logs and writes.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: TokenData,
        run: RunDirectory,
        runtime: Runtime,
        reporter: Reporter,
        now: Callable[[], float] = time.perf_counter,
        world: World = SINGLE_PROCESS,
    ) -> None:
        self.config, self.data, self.run, self.runtime, self.reporter = config, data, run, runtime, reporter
        self.world = world
        self.learner = Learner(config, runtime, reporter, world)
        self.model = self.learner.model
        size, context_length = config.training.batch_size, config.model.context_length
        order, seed = config.training.batch_order, config.runtime.seed
        self.sampler = BatchSampler(data.train.tokens, size, context_length, order, seed)
        self.clock = Clock(now)
        self.lockstep = Lockstep(self.clock, world)
        validation_tokens = data.val.num_tokens if data.val else 0
        self.budget = make_budget(config, self.lockstep.clock, validation_tokens)
        self.guard = Guard(config.training)
        self.step = 0
        self.best: Validation | None = None
        self.newest: Validation | None = None
        self.saved_step: int | None = None
        self.flops_ceiling = math.inf
        self.lap = self.clock.lap()
        """The steps, and what they took, up to the record before."""

    def train(self, logger: Logger) -> int:
        """Run to the end of the budget or to a signal; return 0, or 128 + the signal's number.

        Raises:
            NumericalError: loss or gradient are not finite, and [training].on_nonfinite knows no other way.
            OutputError: the last checkpoint cannot be written; of others that is a warning.
            TransformerLMError: when there is not even memory for one sequence.
        """
        self.clock.start()
        self.learner.prepare()
        self.flops_ceiling = self.world.size * measured_flops_ceiling(self.runtime)
        self.clock.spend(STARTING)
        self.lap = self.clock.lap()
        make_directory(self.run.path)
        with self.lockstep.signals, self.reporter.bar(*self.budget.bar, "training") as bar:
            shown = 0
            self.lockstep.sync()
            if self.step == 0 and self.config.training.on_nonfinite == "rollback":
                self.save(logger)  # where the first step could go back to
            while not (is_last := self.budget.is_spent(self.step)) and not self.lockstep.received:
                result = self.take_step()
                self.lockstep.sync()
                if result.verdict is not Verdict.FAULT or self.passes_over(result):
                    self.after_step(result, logger, bar)
                else:
                    self.roll_back(logger)
                bar.update(self.budget.used(self.step) - shown)
                shown = self.budget.used(self.step)
            if is_last:  # also where a signal came in the last step: the run is complete
                self.budget.complete()
                self.validate(logger)
            self.save(logger, is_last=True)
        return self.lockstep.exit_status

    def take_step(self) -> StepResult:
        """One optimizer step over one global batch; or none, where the guard is against it."""
        training, step = self.config.training, self.step + 1
        # Of the step that it governs: the first step already learns, the last one has the minimum.
        factor = lr_factor(step, self.config.schedule, self.budget.schedule_steps(step))
        watch = self.config.logging.activation_norms and is_due(step, training.log_every)
        self.clock.spend_on_step(times=0)
        number, world = self.step + self.guard.num_left_out, self.world
        inputs, targets = self.sampler.batch(number, world.rank, world.size, self.runtime.device)
        self.clock.spend_on_data()
        result = self.learner.learn(inputs, targets, factor, watch, self.guard.judge)
        self.step = step
        self.clock.spend_on_step()
        return result

    def after_step(self, result: StepResult, logger: Logger, bar: Bar) -> None:
        """Log, validate and save where it is time; after the last step `train` does."""
        training, is_last = self.config.training, self.budget.is_spent(self.step)
        if is_last or is_due(self.step, training.log_every):
            self.log_step(result, logger, bar)
        if is_last:
            return
        if is_due(self.step, training.validate_every) and self.budget.has_room_for(VALIDATING, self.step):
            self.validate(logger)
        is_new_best = self.best is not None and self.best.step == self.step
        is_wanted = is_new_best or is_due(self.step, training.checkpoint_every)
        if is_wanted and self.budget.has_room_for(SAVING, self.step):
            self.save(logger)

    def passes_over(self, result: StepResult) -> bool:
        """Whether a faulty step is passed over and not gone back from; NumericalError where it is the end."""
        numbers = f"loss {result.loss.item()}, gradient norm {result.grad_norm.item()}"
        what = f"step {self.step}: not finite: {numbers}; the first that is not: {result.first_bad}"
        with collective_errors(self.world):
            policy = self.guard.meet(what)
        self.reporter.say(f"warning: {what}: {policy}")
        return policy == "skip"

    def roll_back(self, logger: Logger) -> None:
        """Go back to the newest checkpoint, and on without the batches that came after it.

        Source: Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, section 5.1.
        """
        found = self.run.resume_point("must", self.reporter, self.world)
        assert found
        self.guard.leave_out(self.step - found.step)
        self.load(found)
        self.reporter.say(f"back to step {self.step}; {self.guard.num_left_out} batches are left out")
        with while_rank_0_works(self.world):
            logger.rewind(self.step)

    def log_step(self, result: StepResult, logger: Logger, bar: Bar) -> None:
        """Fetch what the step has to tell and log it. The host waits for the device here."""
        lap, self.lap = self.clock.lap() - self.lap, self.clock.lap()
        model, tokens_per_step = self.config.model, self.budget.tokens_per_step
        tokens_per_second = lap.steps * tokens_per_step / lap.seconds
        flops_per_token = training_flops_per_token(model, model.context_length)
        values = {
            names.LOSS: result.loss.item(),
            names.LR: result.lr,
            names.GRAD_L2_NORM: result.grad_norm.item(),
            names.TOKENS: self.step * tokens_per_step,
            names.TOKENS_PER_SECOND: tokens_per_second,
            names.MFU: tokens_per_second * flops_per_token / self.flops_ceiling,
            names.DATA_WAIT_FRACTION: lap.data_seconds / lap.seconds,
            names.SPIKES: self.guard.num_spikes,
            names.SKIPPED_STEPS: self.guard.num_skipped,
            names.SECONDS_REMAINING: self.budget.seconds_left(self.step, lap.seconds / lap.steps),
        }
        values |= to_floats(result.activation_norms)
        if self.config.logging.weight_norms:
            values |= to_floats(self.learner.weight_norms())
        logger.log(values, self.step)
        bar.set_postfix_str(f"loss {result.loss:.3f}, {tokens_per_second:,.0f} tokens/s")

    def validate(self, logger: Logger) -> None:
        """Evaluate on the whole validation split, in its fixed order, unless that was just done."""
        val = self.data.val
        if val is None or (self.newest and self.newest.step == self.step):
            return
        self.clock.spend_on_step(times=0)
        found = self.learner.in_micro_batches(lambda size: self.evaluate(val, size))
        self.newest = Validation(self.step, found)
        if self.best is None or found.loss < self.best.evaluation.loss:
            self.best = self.newest
        values = {names.VAL_LOSS: found.loss, names.VAL_PERPLEXITY: found.perplexity}
        logger.log(values | {names.VAL_BITS_PER_BYTE: found.bits_per_byte}, self.step)
        self.clock.spend(VALIDATING)
        self.lockstep.sync()

    def evaluate(self, data: TokenFile, batch_size: int) -> Evaluation:
        """The model on all of a token file, some windows at a time; each of several ranks has its part."""
        context_length, device = self.config.model.context_length, self.runtime.device
        first, last, idle_passes = own_share(data.num_tokens, context_length, batch_size, self.world)
        batches: Iterable[Batch] = ()
        if last > first or data.num_tokens < 2:  # the latter is refused there
            share = data.tokens[first : last + 1]
            batches = validation_windows(share, context_length, batch_size, device)
        forward, tokens_per_byte = self.learner.forward, data.num_tokens / data.num_bytes
        return evaluate(forward, batches, self.runtime, tokens_per_byte, self.world, idle_passes)

    def save(self, logger: Logger, *, is_last: bool = False) -> None:
        """Write a checkpoint of this step, unless there is one, and remove those past their time.

        Where that cannot be done, the run goes on, unless it is at its end: then that is an error.
        """
        if self.saved_step == self.step:
            return
        self.clock.spend_on_step(times=0)
        about = {
            "config": to_dict(self.config),
            "identity": identity(self.config, self.data),
            "environment": environment(self.world),
            "newest_validation": self.newest.to_plain() if self.newest else [],
            "micro_batch_size": self.learner.micro_batches.size,
            "clock": self.clock.state(),
            "completed_seconds": self.budget.completed_seconds,
        }
        model, training = self.learner.model_state(), self.training_state()
        try:
            with while_rank_0_works(self.world):
                if self.world.is_main:
                    keep, best = self.config.training.keep_checkpoints, self.best.step if self.best else None
                    written = self.run.save(self.step, model, training, about, keep, best)
                    logger.log_artifact(written.path, f"checkpoint-{self.run.path.name}", "checkpoint")
            self.saved_step = self.step
        except TransformerLMError as error:
            if is_last or error.exit_status != OutputError.exit_status:
                raise
            self.reporter.say(f"warning: step {self.step} is not saved: {error}; training goes on")
        self.clock.spend(SAVING)
        self.lockstep.sync()

    def whole_model(self) -> TransformerLM:
        """The model as one process can use it: on rank 0; the others have no use for theirs."""
        if not self.learner.is_sharded:
            return self.model
        state = self.learner.model_state()
        if not self.world.is_main:
            return self.model
        model = TransformerLM(self.config.model, backend=self.model.backend, device=self.runtime.device)
        model.load_state_dict(state)
        return model

    def training_state(self) -> dict[str, Any]:
        """What it takes, besides the weights, to go on to the same bits."""
        return {
            **self.learner.state(),
            "guard": self.guard.state(),
            "best": self.best.to_plain() if self.best else [],
            "newest": self.newest.to_plain() if self.newest else [],
        }

    def restore(self, found: Checkpoint) -> None:
        """Go on from a checkpoint of this run.

        Raises:
            CheckpointError: where it is of another model, tokenizer or data.
        """
        now, what = identity(self.config, self.data), f"{found.path}: what it says of its run"
        with while_rank_0_works(self.world), as_checkpoint_error(what):
            check_same_run(found, now, self.config, self.reporter, self.world)
        state = self.load(found)
        with collective_errors(self.world), as_checkpoint_error(what):
            self.guard.load(state.get("guard", {}))
            self.clock.load(found.about.get("clock", {}))
            self.budget.completed_seconds = float(found.about.get("completed_seconds", 0.0))
        before, size = found.about.get("micro_batch_size"), self.learner.micro_batches.size
        if before not in (None, size):
            self.reporter.say(f"micro-batches of {before} -> {size} sequences: not to the same last bits")

    def load(self, found: Checkpoint) -> Mapping[str, Any]:
        """Take model, optimizer and random numbers from a checkpoint; its whole training state comes back."""
        with while_rank_0_works(self.world):
            model_state = found.model_state() if self.world.is_main else {}
            saved = found.training_state() if self.world.is_main else {}
        with collective_errors(self.world):
            state = self.learner.load(model_state, saved, str(found.path))
        with collective_errors(self.world), as_checkpoint_error(f"{found.path}: its validations"):
            self.best, self.newest = (Validation.from_plain(state[key]) for key in ("best", "newest"))
        self.step = self.saved_step = found.step
        return state


def is_due(step: int, every: int) -> bool:
    """Whether something done every so many steps (0: never) falls on this one."""
    return every > 0 and step % every == 0
