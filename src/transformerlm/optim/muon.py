"""Muon for the matrices inside a model, AdamW for all else; groups.py assigns the parameters."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, islice, repeat
from typing import Any

import torch
from torch import Tensor

from transformerlm.optim.adamw import AdamW, Params
from transformerlm.optim.base import Optimizer

POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
"""Coefficients a, b, c of each step's polynomial a s + b s^3 + c s^5 in the singular values s.

Each is the polynomial that brings the singular values left by the steps before it nearest to 1, for any
initial values from 0.001 to 1 (in the first steps only those above 0.024 of the largest). The last row
repeats.

Source: Amsel et al., "The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon
Algorithm", 2025, algorithm 1.
"""

SAFETY = 1.01
"""Safety factor: rounding may move a singular value beyond the interval of a polynomial, outside of which it
would grow without bound. (Same source.)"""

ELEMENTS_AT_ONCE = 2**24
"""Elements orthogonalised in one batch: enough to occupy a GPU, with temporaries of some hundred MB."""


class Muon(AdamW):
    """Muon for matrices: momentum with orthogonalised updates; groups with algorithm "adamw" use AdamW.

    State of a matrix: `momentum_buffer`, the decaying sum of its gradients, in float32 at least. The update
    is `muon_update_`, computed for all matrices of one shape together. The state of AdamW's parameters is
    that of `AdamW`.

    Args:
        params: matrices, or groups of parameters with their own numbers and an `algorithm`, "muon" or
            "adamw".
        lr: learning rate: how much an update changes the RMS of a matrix' outputs, per RMS of its inputs.
        momentum: decay of the sum of gradients, from 0 to below 1.
        weight_decay: fraction of a weight subtracted per unit of learning rate and step.
        num_steps: steps of the orthogonalisation.
        betas, eps: of groups with algorithm "adamw".
        dtype: precision of the orthogonalisation. None: bfloat16 on CUDA, float32 elsewhere.
        kernels: of groups with algorithm "adamw": see AdamW.

    Raises:
        ValueError: for a number out of its range, a sparse gradient, or a parameter for Muon that is no
            matrix.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; Bernstein,
    Newhouse, "Old Optimizer, New Norm: An Anthology", 2024, for the norm of its steepest descent.
    """

    dtype: torch.dtype | None = None

    def __init__(
        self,
        params: Params,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        num_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        dtype: torch.dtype | None = None,
        *,
        kernels: bool = False,
    ) -> None:
        self.dtype, self.kernels = dtype, kernels
        numbers = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "num_steps": num_steps}
        defaults = {"algorithm": "muon", **numbers, "betas": betas, "eps": eps}
        Optimizer.__init__(self, params, defaults)  # AdamW's own has other defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters (the constructor does so for every group it is given)."""
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def _update_group(self, group: dict[str, Any], parameters: list[Tensor], take: Tensor | None) -> None:
        if group["algorithm"] == "adamw":
            super()._update_group(group, parameters, take)
            return
        numbers = {key: group[key] for key in ("lr", "momentum", "weight_decay", "num_steps")}
        for some in _batches(parameters):
            grads = [parameter.grad for parameter in some if parameter.grad is not None]
            buffers = [self._momentum_buffer(parameter) for parameter in some]
            muon_update_(some, grads, buffers, dtype=self.dtype, take=take, **numbers)

    def _momentum_buffer(self, parameter: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            state["momentum_buffer"] = torch.zeros_like(parameter, dtype=dtype)
        return state["momentum_buffer"]

    def _state_names(self, group: dict[str, Any]) -> set[str]:
        return {"momentum_buffer"} if group["algorithm"] == "muon" else super()._state_names(group)


def muon_update_(
    parameters: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    num_steps: int = 5,
    dtype: torch.dtype | None = None,
    take: Tensor | None = None,
) -> None:
    """Update matrices of one shape [rows, columns] and their momentum, in place.

    B = momentum B + G                     O = orthogonalized(G + momentum B)     (Nesterov)
    W = (1 - lr weight_decay) W - lr max(1, rows / columns)^(1/2) O

    The square root lets one learning rate serve all shapes. With unit singular values, a wide or square O
    preserves the RMS of a generic input's entries: it keeps `rows` of `columns` directions and has `rows`
    outputs. A tall O preserves the length but spreads it over more entries, so that their RMS falls by
    (columns / rows)^(1/2); the factor compensates for that.

    Computed in the dtype of the momentum, except for the orthogonalisation; a half-precision weight is
    rounded once. `take`, a boolean scalar on their device: see `AdamW.step`.
    """
    decay: float | Tensor = 1 - lr * weight_decay
    if take is not None:
        # Gradients of a step that is not taken may be NaN, which a product with 0 would keep.
        grads = [grad.masked_fill(take.logical_not(), 0) for grad in grads]
        momentum_now = torch.where(take, momentum, 1.0).to(buffers[0].dtype)
        decay = torch.where(take, decay, 1.0).to(buffers[0].dtype)
        torch._foreach_mul_(buffers, momentum_now)
    else:
        torch._foreach_mul_(buffers, momentum)
    torch._foreach_add_(buffers, grads)
    directions = torch._foreach_add(grads, buffers, alpha=momentum)
    updates = orthogonalized(torch.stack(directions), num_steps, dtype).to(buffers[0].dtype)
    if take is not None:
        updates = updates * take

    rows, columns = parameters[0].shape
    # The parameters themselves, unless they are in half precision.
    weights = [parameter.to(buffers[0].dtype) for parameter in parameters]
    torch._foreach_mul_(weights, decay)
    torch._foreach_add_(weights, updates.unbind(), alpha=-lr * math.sqrt(max(1, rows / columns)))
    if weights[0] is not parameters[0]:
        torch._foreach_copy_(parameters, weights)


@torch.no_grad()
def orthogonalized(matrices: Tensor, num_steps: int = 5, dtype: torch.dtype | None = None) -> Tensor:
    """Return approximately U V^T of each matrix U S V^T, by matrix products: [..., rows, columns] -> same.

    X = M / |M|                            A = X X^T
    X = a X + (b A + c A^2) X, which takes each singular value s to a s + b s^3 + c s^5; num_steps times.

    With |M| the Frobenius norm, five steps bring every singular value above 0.002 |M| to between 0.87 and
    1.13 (bfloat16 adds a hundredth; Jordan's constants, the same at each step, lead to between 0.68 and
    1.21), and smaller ones nearer to 1 than they were; ten bring all above 0.001 |M| to 1, up to rounding.
    Zero stays zero.

    Computed and returned in `dtype`. None: bfloat16 on CUDA, elsewhere float32 or M's wider one.

    Source: Newton and Schulz's iteration, as Jordan et al., "Muon", 2024, use it; constants: POLAR_EXPRESS.
    """
    if dtype is None:
        at_least_float32 = torch.promote_types(matrices.dtype, torch.float32)
        dtype = torch.bfloat16 if matrices.device.type == "cuda" else at_least_float32
    rows, columns = matrices.shape[-2:]
    if rows > columns:  # the other product of X and X^T is the smaller one
        return orthogonalized(matrices.mT, num_steps, dtype).mT
    x = _within_unit_norm(matrices).to(dtype).reshape(-1, rows, columns)
    for a, b, c in _coefficients(num_steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.reshape(matrices.shape)


def _within_unit_norm(matrices: Tensor) -> Tensor:
    # Below the smallest norm, squares would underflow: such a matrix is noise, and is not scaled up.
    wide = matrices.to(torch.promote_types(matrices.dtype, torch.float32))
    norm = torch.linalg.vector_norm(wide, dim=(-2, -1), keepdim=True)
    scaled: Tensor = wide / (norm * SAFETY).clamp(min=1e-15)
    return scaled


def _coefficients(num_steps: int) -> Iterator[tuple[float, float, float]]:
    *first, last = POLAR_EXPRESS
    safe = ((a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in first)
    return islice(chain(safe, repeat(last)), num_steps)


def _batches(matrices: list[Tensor]) -> Iterator[list[Tensor]]:
    alike = defaultdict(list)
    for matrix in matrices:
        alike[matrix.shape, matrix.device, matrix.dtype].append(matrix)
    for same in alike.values():
        size = max(1, ELEMENTS_AT_ONCE // same[0].numel())
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _check(group: dict[str, Any]) -> None:
    if group["algorithm"] not in ("muon", "adamw"):
        raise ValueError(f'algorithm: expected "muon" or "adamw", got {group["algorithm"]!r}')
    if not 0 <= group["momentum"] < 1:
        raise ValueError(f"momentum: expected a number from 0 to below 1, got {group['momentum']}")
    if group["num_steps"] < 1:
        raise ValueError(f"num_steps: expected a number of at least 1, got {group['num_steps']}")
    shapes = [tuple(parameter.shape) for parameter in group["params"] if parameter.dim() != 2]
    if group["algorithm"] == "muon" and shapes:
        raise ValueError(f"Muon is for matrices: expected two dimensions, got shape {shapes[0]}")
