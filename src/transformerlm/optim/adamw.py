"""AdamW. Which parameters decay is decided in groups.py, and the learning rate in schedule.py."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, overload

import torch
from torch import Tensor

from transformerlm.kernels import checks, dispatch
from transformerlm.optim.base import Optimizer

Params = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]


class AdamW(Optimizer):
    """Adam with decoupled weight decay.

    State of a parameter: `exp_avg` and `exp_avg_sq`, the running means of its gradient and of the
    gradient's square, in float32 at least; `step`, a float32 scalar on the CPU, or beside the parameter where
    steps are decided on the device. Parameters without a gradient are skipped. The update is
    `adamw_update_`: on a GPU for many parameters at once, on a CPU by a kernel if `kernels` is set.

    Args:
        params: parameters, or groups of them with their own lr, betas, eps, weight_decay.
        lr: learning rate.
        betas: decay of the two running means, each from 0 to below 1.
        eps: added to the root of the second moment.
        weight_decay: fraction of a weight subtracted per unit of learning rate and step.
        kernels: update float32 parameters on a CPU in this package's own kernel.

    Raises:
        ValueError: for a number out of its range, or a sparse gradient.

    Source: Loshchilov, Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2; with the decay
    scaled by the learning rate, as in torch.optim.AdamW.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        kernels: bool = False,
    ) -> None:
        self.kernels = kernels
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters (the constructor does so for every group it is given)."""
        _check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None, *, take: Tensor | None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float], *, take: Tensor | None = None) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None, *, take: Tensor | None = None) -> float | None:
        """Update every parameter; `closure`, if given, computes gradients first, and its loss is returned.

        Args:
            take: decision about this step on the parameters' device, a boolean scalar for which the host
                does not wait: False leaves parameters and state as they are, whatever the gradients are. It
                needs parameters, gradients and state of one dtype. None: the step is taken.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if any(parameter.grad.is_sparse for parameter in parameters):
                raise ValueError(f"{type(self).__name__} takes no sparse gradients")
            if parameters:
                self._update_group(group, parameters, take)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the result of `state_dict()`, bit for bit; on an error nothing is changed.

        Raises:
            ValueError: for the state of other groups, of another algorithm or of other shapes.
        """
        self._check_state(state_dict)
        before = [dict(group) for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, own in zip(self.param_groups, before, strict=True):
            group.update({key: own[key] for key in own if key == "algorithm" or key not in group})
        # torch casts all state to its parameter's dtype, which would round that of half-precision weights.
        for _, parameter, saved in self._saved_states(state_dict):
            for name, value in saved.items():
                device = torch.device("cpu") if name == "step" else parameter.device
                self.state[parameter][name] = value.to(device, copy=True)

    def _update_group(self, group: dict[str, Any], parameters: list[Tensor], take: Tensor | None) -> None:
        states = [self._started_state(parameter, take) for parameter in parameters]
        if take is not None:
            self._update_if(take, group, parameters, states)
            return
        counts = [state["step"] for state in states]
        torch._foreach_add_(counts, 1)
        alike = defaultdict(list)
        # The counts are on the CPU: reading them does not wait for a device.
        for step, parameter, state in zip(torch.stack(counts).tolist(), parameters, states, strict=True):
            grad, exp_avg = parameter.grad, state["exp_avg"]
            assert grad is not None
            key = (int(step), parameter.device, parameter.dtype, grad.dtype, exp_avg.dtype)
            alike[key].append((parameter, grad, exp_avg, state["exp_avg_sq"]))
        numbers = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay")}
        for (step, *_), rows in alike.items():
            some, grads, exp_avgs, exp_avg_sqs = (list(column) for column in zip(*rows, strict=True))
            _update_many(some, grads, exp_avgs, exp_avg_sqs, step, **numbers, kernels=self.kernels)

    def _update_if(
        self, take: Tensor, group: dict[str, Any], parameters: list[Tensor], states: list[dict[str, Tensor]]
    ) -> None:
        """The update where `take` is true, in PyTorch's fused operation, which has a flag for that."""
        for parameter, state in zip(parameters, states, strict=True):
            state["step"] = state["step"].to(parameter.device)  # a checkpoint has it on the CPU
        # The update is elementwise: of a parameter that is divided among ranks each updates its own part.
        tensors = [_local(parameter) for parameter in parameters]
        grads = [_local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        exp_avgs, exp_avg_sqs = (
            [_local(state[name]) for state in states] for name in ("exp_avg", "exp_avg_sq")
        )
        dtypes = {tensor.dtype for tensor in chain(tensors, grads, exp_avgs)}
        if len(dtypes) > 1:
            raise ValueError(f"take: expected parameters, gradients and state of one dtype, got {dtypes}")
        counts = [state["step"] for state in states]
        torch._foreach_add_(counts, [take.to(torch.float32)] * len(counts))
        torch._fused_adamw_(
            tensors,
            grads,
            exp_avgs,
            exp_avg_sqs,
            [],
            counts,
            lr=float(group["lr"]),
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            found_inf=take.logical_not().to(torch.float32),
        )

    def _started_state(self, parameter: Tensor, take: Tensor | None) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            device = "cpu" if take is None else parameter.device
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            state["exp_avg"] = torch.zeros_like(parameter, dtype=dtype)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=dtype)
        return state

    def _state_names(self, group: dict[str, Any]) -> set[str]:
        return {"step", "exp_avg", "exp_avg_sq"}

    def _saved_states(
        self, state_dict: dict[str, Any]
    ) -> Iterator[tuple[dict[str, Any], Tensor, dict[str, Any]]]:
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for parameter, key in zip(group["params"], saved["params"], strict=True):
                yield group, parameter, state_dict["state"].get(key, {})

    def _check_state(self, state_dict: dict[str, Any]) -> None:
        groups = self.param_groups, state_dict["param_groups"]
        expected, got = ([len(group["params"]) for group in either] for either in groups)
        if expected != got:
            raise ValueError(f"expected groups of {expected} parameters, got {got}")
        for group, parameter, saved in self._saved_states(state_dict):
            names = self._state_names(group)
            if saved and saved.keys() != names:
                raise ValueError(f"expected {sorted(names)} for a parameter, got {sorted(saved)}")
            for name, value in saved.items():
                expected_shape = () if name == "step" else tuple(parameter.shape)
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                if shape != expected_shape:
                    raise ValueError(f"expected {name} of shape {expected_shape}, got {shape}")
                if not value.is_floating_point():
                    raise ValueError(f"expected {name} of floating point, got {value.dtype}")


def _local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a DTensor, which shares its memory, and other tensors unchanged."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def _update_many(
    parameters: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    step: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    kernels: bool = False,
) -> None:
    """`adamw_update_` for parameters with the same step, device and dtypes."""
    numbers: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    tensors = parameters, grads, exp_avgs, exp_avg_sqs
    one_dtype = parameters[0].dtype == grads[0].dtype == exp_avgs[0].dtype
    if one_dtype and parameters[0].device.type != "cpu":
        multi_tensor_adamw_update_(*tensors, step, **numbers)
    elif kernels and _kernel_serves(chain(*tensors)):
        _kernel_adamw_update_(*tensors, step, **numbers)
    else:
        # One parameter after the other: on a CPU it stays in the cache from one operation to the next.
        for row in zip(*tensors, strict=True):
            adamw_update_(*row, step, **numbers)


def _kernel_serves(tensors: Iterable[Tensor]) -> bool:
    tensors = list(tensors)
    is_float32 = all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors)
    return is_float32 and dispatch.can_serve(*tensors)


def _kernel_adamw_update_(
    parameters: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    step: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """`adamw_update_` for many float32 parameters, each in one pass over memory."""
    beta1, beta2 = betas
    step_size, root = lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
    numbers = beta1, beta2, step_size, 1 - lr * weight_decay, root, eps
    sizes = _whole_numbers(parameter.numel() for parameter in parameters)
    addresses = _whole_numbers(t.data_ptr() for t in chain(parameters, grads, exp_avgs, exp_avg_sqs))
    if checks.IS_ON:
        for tensors in (parameters, grads, exp_avgs, exp_avg_sqs):
            checks.check_tensors("kernel adamw", tensors, torch.float32, sizes.tolist())
    dispatch.run("adamw", (torch.float32,), addresses, sizes, len(sizes), *numbers)


def _whole_numbers(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64, device="cpu")


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
    with m' = m / (1 - beta1^step) and v' = v / (1 - beta2^step), which correct the bias of their start at
    zero.

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


def multi_tensor_adamw_update_(
    parameters: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    step: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """`adamw_update_` for many parameters of one dtype: each operation is one launch for all of them.

    The same operations in the same order, so on a CPU the same bits; a GPU's fused multiplications and
    additions may round otherwise. While it runs, it takes additional memory of the size of the parameters.
    """
    beta1, beta2 = betas
    torch._foreach_lerp_(exp_avgs, grads, 1 - beta1)
    torch._foreach_mul_(exp_avg_sqs, beta2)
    torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - beta2)

    roots = torch._foreach_sqrt(exp_avg_sqs)
    torch._foreach_div_(roots, math.sqrt(1 - beta2**step))
    torch._foreach_add_(roots, eps)
    torch._foreach_mul_(parameters, 1 - lr * weight_decay)
    torch._foreach_addcdiv_(parameters, exp_avgs, roots, -lr / (1 - beta1**step))


def _check(group: dict[str, Any]) -> None:
    for name in ("lr", "eps", "weight_decay"):
        if not 0 <= group[name] < math.inf:
            raise ValueError(f"{name}: expected a number of at least 0, got {group[name]}")
    if not all(0 <= beta < 1 for beta in group["betas"]):
        raise ValueError(f"betas: expected two numbers from 0 to below 1, got {group['betas']}")
