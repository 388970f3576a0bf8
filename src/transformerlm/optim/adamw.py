"""AdamW. What decays and how the learning rate moves is decided elsewhere (groups.py, schedule.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, overload

import torch
from torch import Tensor

Params = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]


class AdamW(torch.optim.Optimizer):
    """Adam with weight decay apart from the gradient.

    State of a parameter: `exp_avg` and `exp_avg_sq`, the running means of its gradient and of the
    gradient's square, in float32 at least; `step`, a float32 scalar on the CPU. Parameters without a
    gradient are left alone. The update is `adamw_update_`.

    Args:
        params: parameters, or groups of them with their own lr, betas, eps, weight_decay.
        lr: learning rate.
        betas: decay of the two running means, each from 0 to below 1.
        eps: added to the root of the second moment.
        weight_decay: share of a weight taken away per unit of learning rate and step.

    Raises:
        ValueError: for a number out of its range, or a sparse gradient.

    Source: Loshchilov, Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2; with the
    decay scaled by the learning rate, as torch.optim.AdamW has it.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters (the constructor does so for every group it is given)."""
        _check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter; `closure`, if given, computes gradients first, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            numbers = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay")}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, **numbers)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict()` gave, to the bit."""
        super().load_state_dict(state_dict)
        # torch casts all state to its parameter's dtype, which would round that of half-precision weights.
        saved = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        own = chain.from_iterable(group["params"] for group in self.param_groups)
        for key, parameter in zip(saved, own, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                device = value.device if name == "step" else parameter.device
                self.state[parameter][name] = value.to(device, copy=True)

    def _update(self, parameter: Tensor, grad: Tensor, **numbers: Any) -> None:
        if grad.is_sparse:
            raise ValueError("AdamW takes no sparse gradients")
        state = self.state[parameter]
        if not state:
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter, dtype=dtype)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=dtype)
        state["step"] += 1
        step = int(state["step"].item())  # on the CPU: nothing waits
        adamw_update_(parameter, grad, state["exp_avg"], state["exp_avg_sq"], step, **numbers)


def adamw_update_(
    parameter: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """The `step`-th update (from 1) of one parameter and its running means, in place.

    m = beta1 m + (1 - beta1) g                 v = beta2 v + (1 - beta2) g^2
    w = (1 - lr weight_decay) w - lr m' / (sqrt(v') + eps)
    with m' = m / (1 - beta1^step) and v' = v / (1 - beta2^step), which make up for their start at zero.

    Computed in the dtype of the running means; a half-precision weight is rounded once, at the end.
    """
    beta1, beta2 = betas
    grad = grad.to(exp_avg.dtype)
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)

    root = exp_avg_sq.sqrt().div_(math.sqrt(1 - beta2**step)).add_(eps)
    weight = parameter.to(exp_avg.dtype)  # the parameter itself, unless it is in half precision
    weight.mul_(1 - lr * weight_decay).addcdiv_(exp_avg, root, value=-lr / (1 - beta1**step))
    if weight is not parameter:
        parameter.copy_(weight)


def _check(group: dict[str, Any]) -> None:
    for name in ("lr", "eps", "weight_decay"):
        if not 0 <= group[name] < math.inf:
            raise ValueError(f"{name}: expected a number of at least 0, got {group[name]}")
    if not all(0 <= beta < 1 for beta in group["betas"]):
        raise ValueError(f"betas: expected two numbers from 0 to below 1, got {group['betas']}")
