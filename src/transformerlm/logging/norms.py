"""L2 norms of activations and weights, taken from outside: the model knows nothing of them.

Norms stay tensors on the model's device; `to_floats` fetches any number of them in one transfer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from transformerlm.logging.names import ACTIVATION_NORM, WEIGHT_NORM

if TYPE_CHECKING:
    # Whoever has a model has torch; all others who log do without it.
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle


def is_list_member(name: str) -> bool:
    """Whether a module's name ends in a number: the blocks of a model, however they are called."""
    return name.rpartition(".")[2].isdigit()


class ActivationNorms:
    """Forward hooks that measure what chosen modules put out, while the `with` block lasts.

        with ActivationNorms(model) as norms:
            model(inputs)
        logger.log(to_floats(norms.values()), step)

    The norm is taken over all that a module put out within the block, so that gradient accumulation
    does not change it: sqrt(sum over forward passes of the sum of x^2), in float32.

    Args:
        model: any module, compiled or wrapped ones aside (pass the module inside).
        select: which modules to watch, by their name within `model`; each must return one tensor.
    """

    def __init__(self, model: nn.Module, select: Callable[[str], bool] = is_list_member) -> None:
        self._modules = {name: module for name, module in model.named_modules() if select(name)}
        self._squares: dict[str, Tensor] = {}
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for name, module in self._modules.items():
            self._hooks.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def add_square(module: nn.Module, inputs: Any, output: Tensor) -> None:
            square = _l2_norm(output.detach()).square()
            self._squares[name] = self._squares[name] + square if name in self._squares else square

        return add_square

    def values(self) -> dict[str, Tensor]:
        """`norms.activation.<module>` -> norm, a tensor on the device, for every module that ran."""
        return {f"{ACTIVATION_NORM}.{name}": square.sqrt() for name, square in self._squares.items()}


def weight_norms(model: nn.Module) -> dict[str, Tensor]:
    """`norms.weight.<parameter>` -> L2 norm of that parameter in float32, a tensor on the device."""
    named = model.named_parameters()
    return {f"{WEIGHT_NORM}.{name}": _l2_norm(parameter.detach()) for name, parameter in named}


def to_floats(norms: Mapping[str, Tensor]) -> dict[str, float]:
    """The same as Python numbers. The host waits here for the device, once."""
    if not norms:
        return {}
    import torch

    return dict(zip(norms, torch.stack(tuple(norms.values())).tolist(), strict=True))


def _l2_norm(values: Tensor) -> Tensor:
    import torch

    # float32 inside: squares of float16 overflow from 256 on.
    norm: Tensor = torch.linalg.vector_norm(values, dtype=torch.float32)
    return norm
