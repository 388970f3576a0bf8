"""Training: a config, token files and a tokenizer in; a run directory with a trained model out.

The Trainer owns the loop and nothing else: the mathematics is in nn and optim, the order of the data
in data, the formats in checkpoint and rundir, and where metrics go is the loggers' business. Losses
and norms stay on the device until they are logged; every place where the host waits says so.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transformerlm.checkpoint import (
    Checkpoint,
    load_model_state,
    load_optimizer_state,
    prune_checkpoints,
    write_checkpoint,
)
from transformerlm.config import TrainConfig
from transformerlm.data import BatchSampler, TokenData, validation_windows
from transformerlm.errors import NumericalError
from transformerlm.evaluate import Evaluation, evaluate
from transformerlm.logging import ActivationNorms, Logger, names, to_floats, weight_norms
from transformerlm.nn import TransformerLM, cross_entropy, training_flops_per_token
from transformerlm.optim import AdamW, clip_grad_norm_, cosine_schedule, parameter_groups
from transformerlm.progress import Bar, Reporter
from transformerlm.rundir import RunDirectory, check_same_run, environment, identity
from transformerlm.runtime import Runtime, compiled, measured_flops_ceiling
from transformerlm.schema import to_dict
from transformerlm.signals import StopSignals


@dataclass(frozen=True)
class StepResult:
    """What a step has to tell; tensors are scalars on the device."""

    loss: Tensor
    lr: float
    grad_norm: Tensor
    activation_norms: dict[str, Tensor]


class Validation(NamedTuple):
    """The validation split, as the model was after `step` steps."""

    step: int
    evaluation: Evaluation


class Clock:
    """Time since a mark; the trainer sets it anew after validating and saving, which are not training."""

    flops_ceiling = math.inf
    """FLOP/s that the device was seen to reach."""

    def restart(self, step: int) -> None:
        """Set the mark at `step` completed steps."""
        self.step, self.start = step, time.perf_counter()

    def steps_per_second(self, step: int) -> float:
        """Steps since the mark over the seconds since."""
        return (step - self.step) / (time.perf_counter() - self.start)


class Trainer:
    """Trains one model on one device. `train()` does it all; the other methods are its parts.

    `config.model.vocab_size` must be known. The model starts from [runtime].seed, or from the run
    directory's newest valid checkpoint, as [training].resume says.
    """

    def __init__(
        self, config: TrainConfig, data: TokenData, run: RunDirectory, runtime: Runtime, reporter: Reporter
    ) -> None:
        self.config, self.data, self.run, self.runtime, self.reporter = config, data, run, runtime, reporter
        backend = config.runtime.attention
        self.model = TransformerLM(config.model, backend=backend, device=runtime.device)
        groups = parameter_groups(self.model, config.optimizer.weight_decay)
        self.optimizer = AdamW(
            groups, lr=config.optimizer.lr, betas=config.optimizer.betas, eps=config.optimizer.eps
        )
        # float16 has too few exponent bits for gradients: they are scaled up before they underflow.
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
        training, seed = config.training, config.runtime.seed
        self.sampler = BatchSampler(
            data.train.tokens, training.batch_size, config.model.context_length, training.batch_order, seed
        )
        self.step = 0
        self.best: Validation | None = None
        self.newest: Validation | None = None
        self.saved_step: int | None = None
        self.forward: nn.Module = self.model
        self.clock = Clock()

    def train(self, logger: Logger) -> int:
        """Run to [training].max_steps or to a signal; return 0, or 128 + the signal's number.

        Raises:
            NumericalError: when loss or gradient are no longer finite; the last checkpoint is from before.
        """
        if self.config.runtime.compile:
            length = min(2, self.config.model.context_length)
            example = torch.zeros(1, length, dtype=torch.long, device=self.runtime.device)
            self.forward = compiled(self.model, example, self.runtime, self.reporter)
        self.clock.flops_ceiling = measured_flops_ceiling(self.runtime)
        max_steps = self.config.training.max_steps
        with StopSignals() as stop, self.reporter.bar(max_steps, "step", "training") as bar:
            bar.update(self.step)
            self.clock.restart(self.step)
            result: StepResult | None = None
            while self.step < max_steps and not stop.received:
                result = self.take_step()
                bar.update(1)
                self.after_step(result, logger, bar)
            if self.step == max_steps:  # also where a signal came in the last step: the run is complete
                self.validate(logger)
            self.save(result, logger)
        return stop.exit_status

    def take_step(self) -> StepResult:
        """One optimizer step over one global batch."""
        step = self.step + 1
        # Set before the step that it governs: the first step already learns, the last one has the minimum.
        lr = self.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        inputs, targets = self.sampler.batch(self.step, device=self.runtime.device)
        with self.watch_activations(step) as norms:
            loss = self.accumulate_gradients(inputs, targets, self.model if norms else self.forward)
        self.scaler.unscale_(self.optimizer)
        grad_norm = clip_grad_norm_(self.model.parameters(), self.config.optimizer.max_grad_norm or math.inf)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step = step
        return StepResult(loss, lr, grad_norm, norms.values() if norms else {})

    def learning_rate(self, step: int) -> float:
        """The learning rate of the step that makes `step` completed ones."""
        peak, schedule = self.config.optimizer.lr, self.config.schedule
        minimum = peak * schedule.final_lr_fraction
        return cosine_schedule(step, peak, minimum, schedule.warmup_steps, self.config.cosine_steps)

    def accumulate_gradients(self, inputs: Tensor, targets: Tensor, model: nn.Module) -> Tensor:
        """Forward and backward in micro-batches; the mean loss of the whole batch, `[]`, on the device."""
        size, total = self.config.training.forward_batch_size, torch.zeros((), device=self.runtime.device)
        share = size / self.config.training.batch_size
        for x, y in zip(torch.split(inputs, size), torch.split(targets, size), strict=True):
            with self.runtime.autocast():
                loss = cross_entropy(model(x), y) * share
            torch.autograd.backward(self.scaler.scale(loss))
            total += loss.detach()
        return total

    @contextlib.contextmanager
    def watch_activations(self, step: int) -> Iterator[ActivationNorms | None]:
        """Hooks on the blocks for a step that will be logged, where [logging].activation_norms asks."""
        if not (self.config.logging.activation_norms and self.is_due(step, self.config.training.log_every)):
            yield None
            return
        with ActivationNorms(self.model) as norms:
            yield norms

    def is_due(self, step: int, every: int) -> bool:
        """Whether something done every so many steps (0: never) falls on this one."""
        return every > 0 and step % every == 0

    def after_step(self, result: StepResult, logger: Logger, bar: Bar) -> None:
        """Log, validate and save where it is time."""
        training = self.config.training
        if self.is_due(self.step, training.log_every) or self.step == training.max_steps:
            self.log_step(result, logger, bar)
        if self.is_due(self.step, training.validate_every):
            self.validate(logger)
        is_new_best = self.best is not None and self.best.step == self.step
        is_last = self.step == training.max_steps  # then `train` saves, after the last validation
        if not is_last and (is_new_best or self.is_due(self.step, training.checkpoint_every)):
            self.save(result, logger)

    def log_step(self, result: StepResult, logger: Logger, bar: Bar) -> None:
        """Fetch what the step has to tell and log it. The host waits for the device here."""
        self.check_finite(result)
        training, model = self.config.training, self.config.model
        tokens_per_step = training.batch_size * model.context_length
        steps_per_second = self.clock.steps_per_second(self.step)
        tokens_per_second = steps_per_second * tokens_per_step
        flops_per_token = training_flops_per_token(model, model.context_length)
        values = {
            names.LOSS: result.loss.item(),
            names.LR: result.lr,
            names.GRAD_L2_NORM: result.grad_norm.item(),
            names.TOKENS: self.step * tokens_per_step,
            names.TOKENS_PER_SECOND: tokens_per_second,
            names.MFU: tokens_per_second * flops_per_token / self.clock.flops_ceiling,
            names.SECONDS_REMAINING: (training.max_steps - self.step) / steps_per_second,
        }
        values |= to_floats(result.activation_norms)
        if self.config.logging.weight_norms:
            values |= to_floats(weight_norms(self.model))
        logger.log(values, self.step)
        bar.set_postfix_str(f"loss {result.loss:.3f}, {tokens_per_second:,.0f} tokens/s")
        self.clock.restart(self.step)

    def check_finite(self, result: StepResult) -> None:
        """Stop before a broken number is logged or saved. The host waits for the device here.

        With loss scaling a gradient that overflowed is no fault: the scaler has skipped that step.
        """
        finite = result.loss.isfinite() & (result.grad_norm.isfinite() | self.scaler.is_enabled())
        if not finite.item():
            numbers = f"loss {result.loss.item()}, gradient norm {result.grad_norm.item()}"
            advice = f"no checkpoint has it; try a lower [optimizer].lr than {self.config.optimizer.lr}"
            raise NumericalError(f"step {self.step}: not finite: {numbers}; {advice}")

    def validate(self, logger: Logger) -> None:
        """Evaluate on the whole validation split, in its fixed order, unless that was just done."""
        val, training = self.data.val, self.config.training
        if val is None or (self.newest and self.newest.step == self.step):
            return
        context_length, size = self.config.model.context_length, training.forward_batch_size
        batches = validation_windows(val.tokens, context_length, size, self.runtime.device)
        found = evaluate(self.forward, batches, self.runtime, val.num_tokens / val.num_bytes)
        self.newest = Validation(self.step, found)
        if self.best is None or found.loss < self.best.evaluation.loss:
            self.best = self.newest
        values = {names.VAL_LOSS: found.loss, names.VAL_PERPLEXITY: found.perplexity}
        logger.log(values | {names.VAL_BITS_PER_BYTE: found.bits_per_byte}, self.step)
        self.clock.restart(self.step)

    def save(self, result: StepResult | None, logger: Logger) -> None:
        """Write a checkpoint of this step, unless there is one, and remove those past their time."""
        if result is None or self.saved_step == self.step:
            return
        self.check_finite(result)
        about = {
            "config": to_dict(self.config),
            "identity": identity(self.config, self.data),
            "environment": environment(),
            "newest_validation": _to_plain(self.newest),
        }
        model, training = self.model.state_dict(), self.training_state()
        written = write_checkpoint(self.run.checkpoints, self.step, model, training, about)
        best_step = self.best.step if self.best else None
        prune_checkpoints(self.run.checkpoints, self.config.training.keep_checkpoints, best_step)
        self.saved_step = self.step
        logger.log_artifact(written.path, f"checkpoint-{self.run.path.name}", "checkpoint")
        self.clock.restart(self.step)

    def training_state(self) -> dict[str, Any]:
        """What it takes, besides the weights, to go on to the same bits."""
        on_cuda = self.runtime.device.type == "cuda"
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if on_cuda else []},
            "best": _to_plain(self.best),
            "newest": _to_plain(self.newest),
        }

    def restore(self, found: Checkpoint) -> None:
        """Go on from a checkpoint of this run.

        Raises:
            CheckpointError: where it is of another model, tokenizer or data.
        """
        check_same_run(found, identity(self.config, self.data), self.config, self.reporter)
        state, name = found.training_state(), str(found.path)
        load_model_state(self.model, found.model_state(), name)
        load_optimizer_state(self.optimizer, state["optimizer"], name)
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"]["cpu"])
        if len(state["rng"]["cuda"]) == torch.cuda.device_count() > 0:
            torch.cuda.set_rng_state_all(state["rng"]["cuda"])
        self.best, self.newest = _from_plain(state["best"]), _from_plain(state["newest"])
        self.step = self.saved_step = found.step


def _to_plain(validation: Validation | None) -> list[Any]:
    if validation is None:
        return []
    return [validation.step, validation.evaluation.loss, validation.evaluation.bits_per_byte]


def _from_plain(plain: list[Any]) -> Validation | None:
    return Validation(plain[0], Evaluation(*plain[1:])) if plain else None
