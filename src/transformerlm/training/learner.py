"""Model and optimizer: one optimizer step over one batch, and all of its state.

Data, budgets, logs and files are the trainer's.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from transformerlm.checkpoint.load_state import as_checkpoint_error
from transformerlm.checkpoint.store import load_model_state, load_optimizer_state
from transformerlm.config import TrainConfig
from transformerlm.distributed.ranks import SINGLE_PROCESS, Ranks
from transformerlm.distributed.sharding import make_parallelism
from transformerlm.logging import ActivationNorms, weight_norms
from transformerlm.nn import NextTokenLoss, TransformerLM
from transformerlm.nn.accounting import optimizer_bytes
from transformerlm.nn.fused import use_kernels_
from transformerlm.optim import gradient_norms, make_optimizer, scale_gradients_
from transformerlm.progress import Reporter
from transformerlm.runtime import HostCopy, Runtime, memory_for
from transformerlm.training.activation_checkpointing import checkpoint_activations
from transformerlm.training.compilation import compile_passes
from transformerlm.training.dropout import add_dropout
from transformerlm.training.loss_scale import LossScaler
from transformerlm.training.memory import described_memory, micro_batch_size
from transformerlm.training.microbatch import MicroBatches, share_of_batch
from transformerlm.training.step_guard import StepGuard, Verdict


class Decision:
    """The guard's verdict on a step, which the host may read later than the device acts on it.

    Args:
        verdict: a `Verdict`, and 1 for a spike: LongTensor [2].
    """

    def __init__(self, verdict: Tensor) -> None:
        self._copy = HostCopy(verdict)
        self._read: list[float] | None = None

    def _values(self) -> list[float]:
        if self._read is None:
            self._read = self._copy.read()
        return self._read

    @property
    def verdict(self) -> Verdict:
        """The verdict (host sync)."""
        return Verdict(int(self._values()[0]))

    @property
    def is_spike(self) -> bool:
        """True for a spike of loss or gradient norm (host sync)."""
        return bool(self._values()[1])


@dataclass(frozen=True)
class StepResult:
    """Outcome of a step; tensors are on the device."""

    loss: Tensor
    """[]"""
    lr: float
    grad_norm: Tensor
    """[], before clipping."""
    activation_norms: dict[str, Tensor]
    grad_norms: Tensor | None = None
    """[parameters], before clipping, in the order of the model's; None if there are no gradients."""
    decision: Decision | None = None
    """If it is not to TAKE the step, parameters and optimizer are unchanged. None: taken unchecked."""
    window: Tensor | None = None
    """`StepGuard.window` after this step."""


class Learner:
    """Model, optimizer and loss scaling of a run. Initial weights come from torch's global generator.

    On several ranks each has one, with an equally seeded generator, and all call the same methods in the same
    order, each with its share of the batch.

    Args:
        draw_weights: False if weights will be loaded: they have no values until then.

    Raises:
        ConfigError: the ranks cannot share the batch equally.
    """

    def __init__(
        self,
        config: TrainConfig,
        runtime: Runtime,
        reporter: Reporter,
        ranks: Ranks = SINGLE_PROCESS,
        *,
        draw_weights: bool = True,
    ) -> None:
        self.config, self.runtime, self.reporter, self.ranks = config, runtime, reporter, ranks
        # The CPU kernels take float32 weights; float16 would need its loss scale for the sums between ranks.
        dtype = runtime.dtype if runtime.dtype == torch.bfloat16 and not runtime.kernels else None
        self.parallelism = make_parallelism(config.runtime.sharding, ranks, dtype)
        share = share_of_batch(config, ranks.size)
        make_model = TransformerLM if draw_weights else TransformerLM.uninitialized
        with memory_for(*described_memory(config, runtime, ranks)):
            self.model = make_model(config.model, backend=config.runtime.attention, device=runtime.device)
        if config.runtime.activation_checkpointing:
            checkpoint_activations(self.model, is_random=config.training.dropout > 0)
        add_dropout(self.model, config.training.dropout)
        self.loss = NextTokenLoss(self.model)
        if runtime.kernels:
            use_kernels_(self.loss)
        self.parallelism.shard_(self.loss, self.model.blocks, runtime.device)
        self.forward: nn.Module = self.loss
        """`loss`, compiled if [runtime].compile; called for validation."""
        self.training_forward: nn.Module = self.loss
        """`forward`, wrapped to exchange gradients with other ranks; called for training."""
        self.optimizer = make_optimizer(self.model, config.optimizer, runtime.dtype, kernels=runtime.kernels)
        self.scaler = LossScaler(runtime.device, enabled=runtime.dtype == torch.float16)
        size = micro_batch_size(config, runtime, share, ranks)
        can_shrink = self.parallelism.can_repeat_passes
        self.micro_batches = MicroBatches(share, size, reporter, can_shrink=can_shrink)

    def prepare(self) -> None:
        """Prepare the first step: compile if [runtime].compile, and wrap the model for several ranks."""
        if self.config.runtime.compile is True:
            self.forward = self.micro_batches.run(self._compiled)
        self.training_forward = self.parallelism.wrap(self.forward)
        if self.parallelism.needs_trial_pass:
            self._run_trial_pass()

    def _compiled(self, micro_batch_size: int) -> nn.Module:
        """Return what computes a micro-batch's loss, compiled."""
        by_block = self.parallelism.compiles_blocks
        num_targets = self.micro_batches.batch_size * self.config.model.context_length
        sizes = micro_batch_size, num_targets
        return compile_passes(self.loss, self.config, self.runtime, self.reporter, by_block, *sizes)

    def _run_trial_pass(self) -> None:
        """Run passes of a small step on all ranks, and discard their gradients.

        First each rank separately: if memory runs out it uses smaller micro-batches, and then all ranks use
        the smallest size found. Finally a pass with exchange of gradients.
        """
        sizes = self.micro_batches.batch_size, self.config.model.context_length
        ids = torch.zeros(sizes, dtype=torch.long, device=self.runtime.device)
        # The optimizer allocates its state in its first step: until then memory of its size is reserved.
        num_bytes = optimizer_bytes(self.config.model, self.config.optimizer.name)
        state = torch.empty(0 if self.optimizer.state else num_bytes, dtype=torch.uint8, device=ids.device)

        def two_passes(size: int, *, synchronised: bool) -> None:
            some = ids[: 2 * size]  # the second pass has gradients already: the maximum of memory
            self.accumulate_gradients(some, some, size, synchronised=synchronised)

        self.micro_batches.run(partial(two_passes, synchronised=False), self.optimizer.zero_grad)
        found = self.ranks.all_gather_numbers([self.micro_batches.size])
        self.micro_batches.fix_size(min(size for (size,) in found))
        two_passes(self.micro_batches.size, synchronised=True)
        del state
        self.optimizer.zero_grad()

    def learn(
        self,
        inputs: Tensor,
        targets: Tensor,
        lr_factor: float,
        measure_norms: bool = False,
        guard: StepGuard | None = None,
    ) -> StepResult:
        """Take one optimizer step over one global batch.

        If memory runs out, the batch is repeated in smaller micro-batches. On a device that is asynchronous
        the host waits for nothing: the verdict is acted on there.

        Args:
            inputs: ids `[batch, time]`, this rank's share of the batch; results are over the whole batch.
            targets: the ids that follow them, `[batch, time]`.
            lr_factor: fraction of the peak learning rates.
            measure_norms: measure the norms of the blocks' outputs too.
            guard: decides if the step is taken; None: it is.

        Raises:
            TransformerLMError: out of memory for one sequence, for the optimizer or, on several ranks, for a
                micro-batch.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * lr_factor
        loss, norms = self.micro_batches.run(
            lambda size: self.accumulate_gradients(inputs, targets, size, measure_norms),
            self.optimizer.zero_grad,
        )
        loss, norms = self.parallelism.reduce_batch(loss, norms)
        with memory_for("the optimizer"):
            grad_norm, grad_norms = self.clip_gradients()
            decision, window = self.step_optimizer(loss, grad_norm, guard)
        lr = self.config.optimizer.lr * lr_factor
        return StepResult(loss, lr, grad_norm, norms, grad_norms, decision, window)

    def accumulate_gradients(
        self,
        inputs: Tensor,
        targets: Tensor,
        micro_batch_size: int,
        measure_norms: bool = False,
        synchronised: bool = True,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run forward and backward in micro-batches; return this share's mean loss `[]` and norms, on the
        device.

        If `synchronised`, the last micro-batch averages the gradients over all ranks.
        """
        total = torch.zeros((), dtype=torch.float32, device=self.runtime.device)
        micro_batches = list(zip(*(torch.split(t, micro_batch_size) for t in (inputs, targets)), strict=True))
        forward, last = self.training_forward, len(micro_batches)
        with self._activation_norms() if measure_norms else contextlib.nullcontext() as norms:
            for number, (x, y) in enumerate(micro_batches, 1):
                is_exchanged = synchronised and number == last
                with self.parallelism.micro_batch(forward, synchronised=is_exchanged):
                    with self.runtime.autocast():
                        loss = forward(x, y, targets.numel())
                    torch.autograd.backward(self.scaler.scale(loss))
                total += loss.detach()
        return total, norms.values() if norms else {}

    @contextlib.contextmanager
    def _activation_norms(self) -> Iterator[ActivationNorms]:
        with contextlib.ExitStack() as stack:
            if self.config.runtime.compile is True:
                # Run uncompiled: compiled code has no hooks.
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield stack.enter_context(ActivationNorms(self.model))

    def clip_gradients(self) -> tuple[Tensor, Tensor | None]:
        """Clip the gradients' norm to [optimizer].max_grad_norm, in place; return the norm before, `[]`, and
        that of each parameter's gradient, `[parameters]`."""
        own = self.parallelism.own_part
        grads = [own(p.grad) for p in self.model.parameters() if p.grad is not None]
        if not grads:
            return torch.zeros((), dtype=torch.float32, device=self.runtime.device), None
        self.scaler.unscale_(grads)
        norms = self.parallelism.whole_norms(gradient_norms(grads))
        norm: Tensor = torch.linalg.vector_norm(norms)
        max_norm = self.config.optimizer.max_grad_norm or math.inf
        scale_gradients_(grads, norm, max_norm, may_wait=not self.runtime.asynchronous)
        return norm, norms

    def step_optimizer(
        self, loss: Tensor, grad_norm: Tensor, guard: StepGuard | None
    ) -> tuple[Decision | None, Tensor | None]:
        """Take the optimizer's step unless the guard decides otherwise, and discard the gradients.

        Returns:
            The decision, and the guard's window after this step.
        """
        checked = guard.check(loss, grad_norm, self.scaler.can_fall()) if guard else None
        decision = Decision(torch.stack([checked.verdict, checked.is_spike.long()])) if checked else None
        if checked and self.runtime.asynchronous:
            self.optimizer.step(take=checked.verdict == int(Verdict.TAKE))
        elif decision is None or decision.verdict is Verdict.TAKE:
            self.optimizer.step()
        self.scaler.update(grad_norm.isfinite())
        self.optimizer.zero_grad(set_to_none=True)
        return decision, checked.window if checked else None

    def weight_norms(self) -> dict[str, Tensor]:
        """Return the L2 norm of every parameter, on the device."""
        return {name: self.parallelism.whole(norm) for name, norm in weight_norms(self.model).items()}

    def model_state(self) -> dict[str, Tensor]:
        """Return the weights by name; with sharding, divided as the model's are."""
        # With `keep_vars` weights that are tied are one object, also where they are divided.
        return self.model.state_dict(keep_vars=not self.parallelism.keeps_model_whole)

    def whole_model(self) -> TransformerLM:
        """Return an unsharded model; with sharding, valid on rank 0 only."""
        if self.parallelism.keeps_model_whole:
            return self.model
        state = self.parallelism.to_rank_0(self.model_state())
        if not self.ranks.is_main:
            return self.model
        backend, device = self.model.backend, self.runtime.device
        model = TransformerLM.uninitialized(self.config.model, backend=backend, device=device)
        model.load_state_dict(state)
        if self.runtime.kernels:
            use_kernels_(model)
        return model

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs, besides the weights, to compute the same bits; divided as
        `model_state`."""
        # Of its own device alone: what it holds for the others has never moved.
        on_cuda = [torch.cuda.get_rng_state()] if self.runtime.device.type == "cuda" else []
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": {"cpu": torch.get_rng_state(), "cuda": on_cuda},
            "micro_batch_limit": self.micro_batches.limit,
        }

    def load(self, model_state: Mapping[str, Tensor], state: Mapping[str, Any], name: str) -> None:
        """Restore weights and the result of `state`.

        Args:
            model_state: the weights by name; like `state`, as `parallelism.read` returns them.
            state: the result of `state`; other members are ignored.
            name: name of the file, for errors.

        Raises:
            CheckpointError: they are of another model.
        """
        load_model_state(self.model, model_state, name)
        with as_checkpoint_error(f"{name}: the training state"):
            numbers = [dict(group) for group in self.optimizer.param_groups]
            load_optimizer_state(self.optimizer, state["optimizer"], name)
            for group, own in zip(self.optimizer.param_groups, numbers, strict=True):
                group.update(own)  # betas, decay and others come from the config, which may have changed
            self._load_loss_scale(state["scaler"])
            torch.set_rng_state(state["rng"]["cpu"])
            on_cuda = [*state["rng"]["cuda"]]
            if on_cuda and self.runtime.device.type == "cuda":
                torch.cuda.set_rng_state(on_cuda[0])  # rank 0's: all draw equally often
            self.micro_batches.restrict(state.get("micro_batch_limit"))

    def _load_loss_scale(self, state: dict[str, Any]) -> None:
        if self.scaler.is_enabled() and not state:
            self.reporter.say("the checkpoint has no loss scale: that of float16 starts anew")
        elif state and not self.scaler.is_enabled():
            self.reporter.say("the checkpoint's loss scale, of float16, is not needed and left out")
        self.scaler.load_state_dict(state)
