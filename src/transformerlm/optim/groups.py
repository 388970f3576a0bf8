"""Parameter groups: which parameters decay, and which algorithm updates them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from transformerlm.config import OptimizerConfig
from transformerlm.optim.adamw import AdamW
from transformerlm.optim.muon import Muon


def make_optimizer(
    model: nn.Module, config: OptimizerConfig, dtype: torch.dtype | None = None, *, kernels: bool = False
) -> AdamW:
    """Return the optimizer that [optimizer] describes; a schedule scales each group's `peak_lr`.

    `dtype` is the precision of Muon's iteration (None: bfloat16 on CUDA, float32 elsewhere); with `kernels`
    AdamW's update is computed by a CPU kernel.
    """
    if config.name == "adamw":
        groups = parameter_groups(model, config.weight_decay)
        optimizer: AdamW = AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, kernels=kernels)
    else:
        optimizer = Muon(
            _muon_groups(model, config),
            lr=config.muon_lr,
            momentum=config.muon_momentum,
            num_steps=config.muon_steps,
            betas=config.betas,
            eps=config.eps,
            dtype=dtype,
            kernels=kernels,
        )
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return optimizer


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer: matrices decay, vectors (the norms' gains) do not.

    Every parameter is in exactly one group, also one that two modules share. The order is that of
    `model.parameters()`; a group that would be empty is left out.
    """
    return _by_decay(model.parameters(), weight_decay)


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Return True if Muon updates this parameter: a matrix inside a block.

    Embedding and head, tied or not, are excluded: rows of an embedding are looked up independently, and a
    head learns better with AdamW (Jordan et al., "Muon", 2024).
    """
    return name.startswith("blocks.") and parameter.dim() == 2


def _muon_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    weight_decay = config.weight_decay
    hidden: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (hidden if is_hidden_matrix(name, parameter) else others).append(parameter)
    groups = [{**group, "algorithm": "adamw", "lr": config.lr} for group in _by_decay(others, weight_decay)]
    if hidden:
        groups.insert(0, {"params": hidden, "algorithm": "muon", "weight_decay": weight_decay})
    return groups


def _by_decay(parameters: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    parameters = list(parameters)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
