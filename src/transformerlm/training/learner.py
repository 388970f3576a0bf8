"""A model and what makes it learn: one step over one batch, and all of its state.

It knows nothing of data, budgets, logs or files; those are the trainer's.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from transformerlm.checkpoint.load_state import as_checkpoint_error
from transformerlm.checkpoint.store import load_model_state, load_optimizer_state
from transformerlm.config import TrainConfig
from transformerlm.distributed import sharding
from transformerlm.distributed.collectives import all_gather_numbers
from transformerlm.distributed.world import SINGLE_PROCESS, World
from transformerlm.logging import ActivationNorms, weight_norms
from transformerlm.nn import NextTokenLoss, TransformerBlock, TransformerLM
from transformerlm.nn.accounting import optimizer_bytes
from transformerlm.nn.fused import use_kernels_
from transformerlm.optim import clip_grad_norm_, make_optimizer
from transformerlm.progress import Reporter
from transformerlm.runtime import ADVICE, SMALLER, Runtime, compiled, memory_for
from transformerlm.training.activation_checkpointing import checkpoint_activations
from transformerlm.training.memory import micro_batch_size
from transformerlm.training.microbatch import MicroBatches, share_of_batch
from transformerlm.training.step_guard import Judge, Verdict, always, first_not_finite

T = TypeVar("T")


@dataclass(frozen=True)
class StepResult:
    """What a step has to tell; tensors are scalars on the device."""

    loss: Tensor
    lr: float
    grad_norm: Tensor
    activation_norms: dict[str, Tensor]
    verdict: Verdict = Verdict.TAKE
    """Whether it was taken; where not, parameters and optimizer are what they were before."""
    first_bad: str = ""
    """Of a fault: the first parameter that is not finite, or whose gradient is not."""


class Learner:
    """Model, optimizer and loss scaling of a run; the model starts from torch's global generator.

    On several ranks each has one, with the same generator, and all call the same methods at the same time,
    each with its share of the batch.

    Raises:
        ConfigError: for a batch that the ranks cannot share equally.
    """

    def __init__(
        self, config: TrainConfig, runtime: Runtime, reporter: Reporter, world: World = SINGLE_PROCESS
    ) -> None:
        self.config, self.runtime, self.reporter, self.world = config, runtime, reporter, world
        self.is_sharded = world.size > 1 and config.runtime.sharding == "full"
        share = share_of_batch(config, world)
        self.model = TransformerLM(config.model, backend=config.runtime.attention, device=runtime.device)
        if config.runtime.activation_checkpointing:
            checkpoint_activations(self.model)
        self.loss = NextTokenLoss(self.model)
        if runtime.kernels:
            use_kernels_(self.loss)
        if self.is_sharded:
            sharding.shard_(self.loss, self.model.blocks, runtime.device)
        self.forward: nn.Module = self.loss
        """What is called in `loss`' place: the same, compiled where [runtime] says so."""
        self.replica: nn.Module | None = None
        """What is called in training instead, where each rank has a copy of the model."""
        self.optimizer = make_optimizer(self.model, config.optimizer, runtime.dtype, kernels=runtime.kernels)
        # float16 has too few exponent bits for gradients: they are scaled up before they underflow.
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
        self.micro_batches = MicroBatches(share, micro_batch_size(config, runtime, share, world), reporter)

    def prepare(self) -> None:
        """What comes before the first step: compile where [runtime] says so, connect the ranks' copies."""
        self.compile()
        if self.world.size > 1 and not self.is_sharded:
            self.replica = sharding.replicate(self.loss)
            self._rehearse()

    def compile(self) -> None:
        """Compile where [runtime] says so; what comes of it is proven at once."""
        length, device = min(2, self.config.model.context_length), self.runtime.device
        if not self.config.runtime.compile:
            return
        if self.world.size == 1:
            example = torch.zeros((1, length), dtype=torch.long, device=device)
            self.forward = compiled(self.loss, (example, example), self.runtime, self.reporter)
            return
        # Block by block: between them gradients, or parts of the model, travel while others compute.
        trial = TransformerBlock(self.config.model, backend=self.model.backend, device="meta")
        x = torch.zeros((1, length, self.config.model.d_model), device=device)
        if compiled(trial.to_empty(device=device), (x,), self.runtime, self.reporter) is not trial:
            for block in self.model.blocks:
                block.compile()

    def _rehearse(self) -> None:
        """Have all ranks' copies take the passes of a small step, and forget what comes of them.

        Alone at first: where one has not enough memory, it can begin anew, and all take what is enough for
        that. Then together: from the first passes DDP learns in which order gradients come, and exchanges
        them in another way thereafter. No step that counts is computed unlike the others.
        """
        sizes = self.micro_batches.batch_size, self.config.model.context_length
        ids = torch.zeros(sizes, dtype=torch.long, device=self.runtime.device)
        # The optimizer's state comes with its first step: until then something of its size is in its place.
        num_bytes = optimizer_bytes(self.config.model, self.config.optimizer.name)
        state = torch.empty(0 if self.optimizer.state else num_bytes, dtype=torch.uint8, device=ids.device)

        def two_passes(size: int, *, synchronised: bool) -> None:
            some = ids[: 2 * size]  # the second one finds gradients there: no later one takes more memory
            self.accumulate_gradients(some, some, size, synchronised=synchronised)

        self.micro_batches.run(partial(two_passes, synchronised=False), self.optimizer.zero_grad)
        sizes_found = all_gather_numbers(self.world, [self.micro_batches.size])
        self.micro_batches.agree(min(size for (size,) in sizes_found))
        two_passes(self.micro_batches.size, synchronised=True)
        del state
        self.optimizer.zero_grad()

    def learn(
        self,
        inputs: Tensor,
        targets: Tensor,
        lr_factor: float,
        watch: bool = False,
        judge: Judge = always,
    ) -> StepResult:
        """One optimizer step over one global batch, at this part of the peak learning rates.

        Where memory runs out the batch is begun anew in smaller micro-batches. With `watch` the norms of
        the blocks' outputs come back too. `inputs` and `targets` are this rank's share of the batch; what
        comes back is of all of it. `judge` decides, before the optimizer does anything, whether it does.

        Raises:
            TransformerLMError: where there is not even memory for one sequence, or none for the optimizer,
                or, on several ranks, where it runs out.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * lr_factor
        loss, norms = self.in_micro_batches(
            lambda size: self.accumulate_gradients(inputs, targets, size, watch), self.optimizer.zero_grad
        )
        loss, norms = self._of_all_ranks(loss, norms)
        with memory_for("the optimizer"):
            grad_norm, verdict, first_bad = self.update(loss, judge)
        lr = self.config.optimizer.lr * lr_factor
        return StepResult(loss, lr, grad_norm, norms, verdict, first_bad)

    def in_micro_batches(self, attempt: Callable[[int], T], clear: Callable[[], object] = lambda: None) -> T:
        """As `MicroBatches.run`; but a rank that others wait for cannot begin anew: there it is an error."""
        if self.world.size == 1:
            return self.micro_batches.run(attempt, clear)
        size = self.micro_batches.size
        with memory_for(f"{size} sequences at a time", SMALLER if size > 1 else ADVICE):
            return attempt(size)

    def update(self, loss: Tensor, judge: Judge = always) -> tuple[Tensor, Verdict, str]:
        """Clip the gradients, take the optimizer's step if `judge` agrees, and forget them.

        Returns:
            Their norm `[]` before clipping, the verdict, and of a fault what is to blame.
        """
        self.scaler.unscale_(self.optimizer)
        max_norm = self.config.optimizer.max_grad_norm or math.inf
        grad_norm = self._whole(clip_grad_norm_(self.model.parameters(), max_norm))
        # The host waits for the device here: what is no number must not reach the parameters.
        numbers = torch.stack([loss.float(), grad_norm.float()]).tolist()
        verdict = judge(*numbers, is_scaled=self.scaler.is_enabled())
        first_bad = first_not_finite(self.model, self._whole) if verdict is Verdict.FAULT else ""
        if verdict is Verdict.TAKE:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return grad_norm, verdict, first_bad

    def _whole(self, tensor: Tensor) -> Tensor:
        return sharding.whole(tensor) if self.is_sharded else tensor

    def accumulate_gradients(
        self,
        inputs: Tensor,
        targets: Tensor,
        micro_batch_size: int,
        watch: bool = False,
        synchronised: bool = True,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward and backward in micro-batches: this share's mean loss `[]` and norms, on the device.

        With the last one, unless not `synchronised`, gradients become the mean of all ranks'.
        """
        total = torch.zeros((), device=self.runtime.device)
        micro_batches = list(zip(*(torch.split(t, micro_batch_size) for t in (inputs, targets)), strict=True))
        with self._watching() if watch else contextlib.nullcontext() as norms:
            # Hooks do not run inside a compiled module.
            forward = self.replica or (self.loss if watch else self.forward)
            for number, (x, y) in enumerate(micro_batches, 1):
                with self._exchange(forward, synchronised and number == len(micro_batches)):
                    with self.runtime.autocast():
                        loss = forward(x, y, targets.numel())
                    torch.autograd.backward(self.scaler.scale(loss))
                total += loss.detach()
        return total, norms.values() if norms else {}

    def _exchange(self, forward: nn.Module, synchronised: bool) -> contextlib.AbstractContextManager[None]:
        if self.world.size == 1:
            return contextlib.nullcontext()
        return sharding.micro_batch(forward, synchronised=synchronised)

    @contextlib.contextmanager
    def _watching(self) -> Iterator[ActivationNorms]:
        with contextlib.ExitStack() as stack:
            if self.config.runtime.compile and self.world.size > 1:
                # Blocks that are compiled each by itself have to run as they were: hooks are not compiled.
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield stack.enter_context(ActivationNorms(self.model))

    def _of_all_ranks(self, loss: Tensor, norms: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and the norms over the whole batch, from those over this rank's share."""
        if self.world.size == 1:
            return loss, norms
        squares = [norm.square() for norm in norms.values()]
        loss, *squares = sharding.mean(self.world, torch.stack([loss, *squares]))
        all_norms = ((square * self.world.size).sqrt() for square in squares)
        return loss, dict(zip(norms, all_norms, strict=True))

    def weight_norms(self) -> dict[str, Tensor]:
        """The L2 norm of every parameter, on the device."""
        norms = weight_norms(self.model)
        return {name: sharding.whole(norm) for name, norm in norms.items()} if self.is_sharded else norms

    def model_state(self) -> dict[str, Tensor]:
        """The weights by name; of ranks that have parts of them, whole on rank 0 and of no use elsewhere."""
        if not self.is_sharded:
            return self.model.state_dict()
        return dict(sharding.to_rank_0(self.world, self.model.state_dict(keep_vars=True)))

    def state(self) -> dict[str, Any]:
        """What it takes, besides the weights, to go on to the same bits; whole as `model_state` is."""
        on_cuda = self.runtime.device.type == "cuda"
        optimizer = self.optimizer.state_dict()
        return {
            "optimizer": sharding.to_rank_0(self.world, optimizer) if self.is_sharded else optimizer,
            "scaler": self.scaler.state_dict(),
            "rng": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if on_cuda else []},
            "micro_batch_limit": self.micro_batches.limit,
        }

    def load(
        self, model_state: Mapping[str, Tensor], state: Mapping[str, Any], name: str
    ) -> Mapping[str, Any]:
        """Go on from weights and from what `state` gave; on several ranks, from those that rank 0 has.

        Returns:
            `state`, on all ranks, with what else its giver has put into it.

        Raises:
            CheckpointError: where they are of another model; `name` says in it where they came from.
        """
        self.load_weights(model_state, name)
        if self.world.size > 1:
            state = sharding.from_rank_0(self.world, state, self._part_of_state)
        with as_checkpoint_error(f"{name}: the training state"):
            numbers = [dict(group) for group in self.optimizer.param_groups]
            load_optimizer_state(self.optimizer, state["optimizer"], name)
            for group, own in zip(self.optimizer.param_groups, numbers, strict=True):
                group.update(own)  # betas, decay and their like are the config's, which may have changed
            self.scaler.load_state_dict(state["scaler"])
            torch.set_rng_state(state["rng"]["cpu"])
            if len(state["rng"]["cuda"]) == torch.cuda.device_count() > 0:
                torch.cuda.set_rng_state_all(state["rng"]["cuda"])
            self.micro_batches.restrict(state.get("micro_batch_limit"))
        return state

    def load_weights(self, model_state: Mapping[str, Tensor], name: str) -> None:
        """Take weights alone; on several ranks, those that rank 0 has."""
        if self.world.size > 1:
            model_state = sharding.from_rank_0(self.world, model_state, self._part)
        load_model_state(self.model, model_state, name)

    def _part(self, path: str, tensor: Tensor) -> Tensor:
        return sharding.divided(tensor, self.model.head.weight)

    def _part_of_state(self, path: str, tensor: Tensor) -> Tensor:
        return self._part(path, tensor) if path.startswith("optimizer.") else tensor
