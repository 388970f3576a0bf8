"""Contestants of bench_train: each function prepares a training and returns one step of it.

They run in processes of their own, so everything is imported inside. A step is a whole one: forward,
backward, clipping, optimizer, over one batch of random tokens that stays the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformerlm.config import ModelConfig, OptimizerConfig, RuntimeConfig, TrainConfig, TrainingConfig

if TYPE_CHECKING:
    import torch

    from transformerlm.runtime import Runtime

Step = Callable[[], object]


def our_step(shape: ModelConfig, runtime: RuntimeConfig, batch_size: int) -> Step:
    """Return a step of this package's training, with the defaults of transformerlm-train except the shape."""
    from transformerlm.progress import SilentReporter
    from transformerlm.runtime import prepare_process
    from transformerlm.training.learner import Learner

    config = TrainConfig(model=shape, runtime=runtime, training=TrainingConfig(batch_size=batch_size))
    resolved = prepare_process(runtime)
    learner = Learner(config, resolved, SilentReporter())
    learner.prepare()
    inputs, targets = batch(shape, batch_size, resolved.device)

    def step() -> None:
        learner.learn(inputs, targets, 1.0)
        resolved.synchronize()

    return step


def hugging_face_step(shape: ModelConfig, runtime: RuntimeConfig, batch_size: int) -> Step:
    """Return a step of transformers' LlamaForCausalLM with torch's AdamW and clipping."""
    import torch

    from benchmarking.peers import hugging_face_llama

    resolved, settings = peer_runtime(runtime), OptimizerConfig()
    model: Any = hugging_face_llama(shape)
    model.to(resolved.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=0.1)
    forward = torch.compile(model) if runtime.compile is True else model
    inputs, targets = batch(shape, batch_size, resolved.device)

    def loss() -> torch.Tensor:
        logits = forward(input_ids=inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    return peer_step(loss, model, optimizer, runtime)


def nanogpt_step(shape: ModelConfig, runtime: RuntimeConfig, batch_size: int, checkout: str) -> Step:
    """Return a step of nanoGPT's model, from a checkout of it, with its own optimizer."""
    sys.path.insert(0, checkout)
    import torch
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    resolved, settings = peer_runtime(runtime), OptimizerConfig()
    config = GPTConfig(
        block_size=shape.context_length,
        vocab_size=shape.vocabulary_rows,
        n_layer=shape.num_layers,
        n_head=shape.num_heads,
        n_embd=shape.d_model,
        dropout=0.0,
        bias=False,
    )
    model = GPT(config).to(resolved.device)
    optimizer = model.configure_optimizers(0.1, settings.lr, settings.betas, resolved.device.type)
    forward = torch.compile(model) if runtime.compile is True else model
    inputs, targets = batch(shape, batch_size, resolved.device)
    return peer_step(lambda: forward(inputs, targets)[1], model, optimizer, runtime)


def peer_runtime(config: RuntimeConfig) -> Runtime:
    """Resolve device and precision alone: the settings of `prepare_process` would speed up peers too."""
    from transformerlm.runtime import Runtime

    return Runtime.from_config(config)


def peer_step(
    loss: Callable[[], torch.Tensor],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    runtime: RuntimeConfig,
) -> Step:
    """Return a training step in PyTorch's own operations."""
    import torch

    resolved = peer_runtime(runtime)

    def step() -> None:
        with resolved.autocast():
            value = loss()
        torch.autograd.backward(value)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        resolved.synchronize()

    return step


def batch(shape: ModelConfig, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random tokens, and random targets."""
    import torch

    ids = torch.randint(shape.vocabulary_rows, (2, size, shape.context_length), device=device)
    return ids[0], ids[1]


def our_adamw(shape: ModelConfig) -> Step:
    """A step of our AdamW over a model's parameters; on a CPU with the kernels."""
    import torch

    from transformerlm.optim import make_optimizer

    kernels = not torch.cuda.is_available()
    return make_optimizer(with_gradients(shape), OptimizerConfig(), kernels=kernels).step


def torch_adamw(shape: ModelConfig) -> Step:
    """A step of torch's fused AdamW over a model's parameters."""
    import torch

    from transformerlm.optim import parameter_groups

    model = with_gradients(shape)
    return torch.optim.AdamW(parameter_groups(model, 0.1), betas=(0.9, 0.95), fused=True).step


def with_gradients(shape: ModelConfig) -> torch.nn.Module:
    """Return a model with random gradients."""
    import torch

    from transformerlm.nn import TransformerLM

    model = TransformerLM(shape, device="cuda" if torch.cuda.is_available() else "cpu")
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model
