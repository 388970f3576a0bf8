"""L2 norms of activations and weights, measured from outside the model with hooks.

Norms stay tensors on the model's device; `to_floats` fetches any number of them in one transfer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from transformerlm.logging.names import ACTIVATION_NORM, WEIGHT_NORM

if TYPE_CHECKING:
    # Only at type checking: loggers must not import torch.
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle


def is_list_member(name: str) -> bool:
    """Return True if the name of a module ends in a number, as those of the blocks of a model do."""
    return name.rpartition(".")[2].isdigit()


class ActivationNorms:
    """Forward hooks that measure the outputs of modules within a `with` block.

        with ActivationNorms(model) as norms:
            model(inputs)
        logger.log(to_floats(norms.values()), step)

    The norm is taken over all outputs of a module within the block, so that gradient accumulation does not
    change it: sqrt(sum over forward passes of the sum of x^2), in float32.

    Args:
        model: any module that is not compiled or wrapped (pass the module inside).
        select: predicate on the names of the modules to measure; each must return one tensor.
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
        """Return `norms.activation.<module>` -> norm, a tensor on the device, for every module that ran."""
        return {f"{ACTIVATION_NORM}.{name}": square.sqrt() for name, square in self._squares.items()}


def weight_norms(model: nn.Module) -> dict[str, Tensor]:
    """Return `norms.weight.<parameter>` -> L2 norm in float32, a tensor on the device."""
    named = model.named_parameters()
    return {f"{WEIGHT_NORM}.{name}": _l2_norm(parameter.detach()) for name, parameter in named}


def to_floats(norms: Mapping[str, Tensor]) -> dict[str, float]:
    """Return norms as Python numbers. The host waits for the device here, once."""
    if not norms:
        return {}
    import torch

    return dict(zip(norms, torch.stack(tuple(norms.values())).tolist(), strict=True))


def _l2_norm(values: Tensor) -> Tensor:
    import torch

    # Accumulated in float32: squares of float16 overflow from 256 on.
    norm: Tensor = torch.linalg.vector_norm(values, dtype=torch.float32)
    return norm
