"""A model and what makes it learn: one step over one batch, and all of its state.

It knows nothing of data, budgets, logs or files; those are the trainer's.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transformerlm import cpu
from transformerlm.activation_checkpointing import checkpoint_activations
from transformerlm.checkpoint import load_model_state, load_optimizer_state
from transformerlm.config import TrainConfig
from transformerlm.logging import ActivationNorms
from transformerlm.memory import micro_batch_size, uses_kernels
from transformerlm.microbatch import MicroBatches, memory_for
from transformerlm.nn import NextTokenLoss, TransformerLM
from transformerlm.optim import clip_grad_norm_, make_optimizer
from transformerlm.progress import Reporter
from transformerlm.runtime import Runtime, compiled


@dataclass(frozen=True)
class StepResult:
    """What a step has to tell; tensors are scalars on the device."""

    loss: Tensor
    lr: float
    grad_norm: Tensor
    activation_norms: dict[str, Tensor]


class Learner:
    """Model, optimizer and loss scaling of a run; the model starts from torch's global generator."""

    def __init__(self, config: TrainConfig, runtime: Runtime, reporter: Reporter) -> None:
        self.config, self.runtime, self.reporter = config, runtime, reporter
        self.model = TransformerLM(config.model, backend=config.runtime.attention, device=runtime.device)
        if config.runtime.activation_checkpointing:
            checkpoint_activations(self.model)
        self.loss = NextTokenLoss(self.model)
        self.forward: nn.Module = self.loss
        """What is called in `loss`' place: the same, compiled where [runtime] says so."""
        self.optimizer = make_optimizer(self.model, config.optimizer)
        # float16 has too few exponent bits for gradients: they are scaled up before they underflow.
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
        batch_size = config.training.batch_size
        size = micro_batch_size(config, runtime, batch_size)
        self.micro_batches = MicroBatches(batch_size, size, reporter)
        self._done: torch.cuda.Event | None = None

    def compile(self) -> None:
        """Compile where [runtime] says so; what comes of it is proven at once."""
        if self.config.runtime.compile:
            shape = 1, min(2, self.config.model.context_length)
            example = torch.zeros(shape, dtype=torch.long, device=self.runtime.device)
            self.forward = compiled(self.loss, (example, example), self.runtime, self.reporter)

    def learn(self, inputs: Tensor, targets: Tensor, lr_factor: float, watch: bool = False) -> StepResult:
        """One optimizer step over one global batch, at this part of the peak learning rates.

        Where memory runs out the batch is begun anew in smaller micro-batches. With `watch` the norms of
        the blocks' outputs come back too.

        Raises:
            TransformerLMError: where there is not even memory for one sequence, or none for the optimizer.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * lr_factor
        with self.kernels():
            loss, norms = self.micro_batches.run(
                lambda size: self.accumulate_gradients(inputs, targets, size, watch), self.optimizer.zero_grad
            )
            with memory_for("the optimizer"):
                grad_norm = self.update()
        self._wait_for_the_step_before()
        return StepResult(loss, self.config.optimizer.lr * lr_factor, grad_norm, norms)

    def kernels(self) -> contextlib.AbstractContextManager[None]:
        """Have what is computed meanwhile use the CPU's own kernels, where [runtime] says so."""
        return cpu.kernels(uses_kernels(self.config, self.runtime))

    def update(self) -> Tensor:
        """Clip the gradients, take the optimizer's step, forget them; their norm `[]` before clipping."""
        self.scaler.unscale_(self.optimizer)
        max_norm = self.config.optimizer.max_grad_norm or math.inf
        grad_norm = clip_grad_norm_(self.model.parameters(), max_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return grad_norm

    def accumulate_gradients(
        self, inputs: Tensor, targets: Tensor, micro_batch_size: int, watch: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward and backward in micro-batches: the batch's mean loss `[]` and norms, on the device."""
        total = torch.zeros((), device=self.runtime.device)
        with ActivationNorms(self.model) if watch else contextlib.nullcontext() as norms:
            # Hooks do not run inside a compiled module.
            forward = self.loss if watch else self.forward
            for x, y in zip(*(torch.split(t, micro_batch_size) for t in (inputs, targets)), strict=True):
                with self.runtime.autocast():
                    loss = forward(x, y, targets.numel())
                torch.autograd.backward(self.scaler.scale(loss))
                total += loss.detach()
        return total, norms.values() if norms else {}

    def state(self) -> dict[str, Any]:
        """What it takes, besides the weights, to go on to the same bits."""
        on_cuda = self.runtime.device.type == "cuda"
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if on_cuda else []},
            "micro_batch_limit": self.micro_batches.limit,
        }

    def load(self, model_state: Mapping[str, Tensor], state: Mapping[str, Any], name: str) -> None:
        """Go on from weights and from what `state` gave.

        Raises:
            CheckpointError: where they are of another model; `name` says in it where they came from.
        """
        load_model_state(self.model, model_state, name)
        load_optimizer_state(self.optimizer, state["optimizer"], name)
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"]["cpu"])
        if len(state["rng"]["cuda"]) == torch.cuda.device_count() > 0:
            torch.cuda.set_rng_state_all(state["rng"]["cuda"])
        self.micro_batches.restrict(state.get("micro_batch_limit"))

    def _wait_for_the_step_before(self) -> None:
        # A GPU may be one step behind, which keeps it busy, and no more: a budget in time, a signal and a
        # failure all want to know where it is.
        if self.runtime.device.type == "cuda":
            before, self._done = self._done, torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()
            if before is not None:
                before.synchronize()
