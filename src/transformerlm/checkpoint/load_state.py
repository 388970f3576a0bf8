"""Loading of saved states into a model and an optimizer, after checking that they fit.

A checkpoint may be of another model, of another version or hostile: any content is either loaded or refused
with lines that give the reason.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from transformerlm.errors import CheckpointError, TransformerLMError
from transformerlm.storage.untrusted import printable

MAX_LINES = 20
"""Largest number of problems that one error lists."""
_MISFIT_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@contextlib.contextmanager
def as_checkpoint_error(what: str) -> Iterator[None]:
    """Context manager for loading a saved state: turns torch's and Python's errors into a CheckpointError.

    Args:
        what: the file and the state that is loaded, with which the message begins.

    Raises:
        CheckpointError: `what` does not fit.
    """
    try:
        yield
    except (TransformerLMError, torch.OutOfMemoryError):
        raise
    except _MISFIT_ERRORS as error:
        raise CheckpointError(f"{what} does not fit: {type(error).__name__}: {printable(error)}") from error


def load_model_state(model: nn.Module, state: Mapping[str, Any], name: str, *, assign: bool = False) -> None:
    """Load weights by name with `model.load_state_dict`, all or nothing, after `check_model_state`.

    Args:
        name: name of the file in error messages.
        assign: make the tensors of `state` the model's own instead of copying them into its tensors; they
            keep their device and dtype.

    Raises:
        CheckpointError: one line per tensor that is missing, unknown, or of another shape or kind of number.
    """
    check_model_state(model, state, name)
    with as_checkpoint_error(f"{name}: the model's state"):
        model.load_state_dict(dict(state), assign=assign)


def check_model_state(model: nn.Module, state: Mapping[str, Any], name: str) -> None:
    """Compare every name, shape and kind of number with the model's, and change nothing.

    Raises:
        CheckpointError: as in `load_model_state`.
    """
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{name}: expected a model's tensors by name, got a {type(state).__name__}")
    own = model.state_dict()
    problems = [f"{key}: missing" for key in own.keys() - state.keys()]
    problems += [f"{printable(key)}: the model has no such tensor" for key in state.keys() - own.keys()]
    for key in own.keys() & state.keys():
        problems += [f"{key}: {what}" for what in _differences(own[key], state[key])]
    if problems:
        lines = [f"{name}: {problem}" for problem in sorted(problems)]
        more = [f"{name}: and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
        raise CheckpointError(lines[:MAX_LINES] + more)


def _differences(own: Any, saved: Any) -> Iterator[str]:
    if not isinstance(own, Tensor):
        return  # extra state of a module, which it checks itself
    if not isinstance(saved, Tensor):
        yield f"expected a tensor, got a {type(saved).__name__}"
    elif saved.shape != own.shape:
        yield f"expected shape {tuple(own.shape)}, got {printable(tuple(saved.shape))}"
    elif saved.is_floating_point() != own.is_floating_point() or saved.is_complex() != own.is_complex():
        yield f"expected {own.dtype} or alike, got {saved.dtype}"


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any], name: str) -> None:
    """Load a state with `optimizer.load_state_dict`, after comparing the form of its groups and entries.

    Options of a group that the state lacks keep their values.

    Raises:
        CheckpointError: it is not the state of such an optimizer.
    """
    before = [dict(group) for group in optimizer.param_groups]
    with as_checkpoint_error(f"{name}: the optimizer's state"):
        _check_optimizer_state(optimizer, state)
        optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, before, strict=True):
        for key, value in own.items():
            group.setdefault(key, value)  # an option that a later version added


def _check_optimizer_state(optimizer: torch.optim.Optimizer, state: Any) -> None:
    groups, states = state["param_groups"], state["state"]
    expected = [len(group["params"]) for group in optimizer.param_groups]
    got = [len(group["params"]) for group in groups]
    if expected != got:
        raise ValueError(f"expected groups of {expected} parameters, got {printable(got)}")
    for own, saved in zip(optimizer.param_groups, groups, strict=True):
        _check_group(own, saved)
    keys = [key for group in groups for key in group["params"]]
    if not all(type(key) is int for key in keys) or len(set(keys)) != len(keys):
        raise ValueError("expected parameters by different numbers")
    if states.keys() - set(keys):
        raise ValueError("there is a state of a parameter that is in no group")
    for entry in states.values():
        _check_step(entry.get("step", 0))
    _check_tensors(states)


def _check_group(own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    for key in own.keys() & saved.keys() - {"params"}:
        if not _is_like(own[key], saved[key]):
            expected = own[key] if own[key] is None else type(own[key]).__name__
            raise TypeError(f"{key}: expected something like {expected}, got {type(saved[key]).__name__}")


def _is_like(own: Any, saved: Any) -> bool:
    """Return True if a saved option can replace one of the optimizer's: of the same type, or both numbers."""
    if isinstance(own, list | tuple):
        is_alike = isinstance(saved, list | tuple) and len(own) == len(saved)
        return is_alike and all(map(_is_like, own, saved))
    if _is_number(own):
        return _is_number(saved) or (saved is None and isinstance(own, bool))
    return type(saved) is type(own) or (own is None and _is_number(saved))


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    # isnan raises OverflowError for an integer that is too large for a float.
    return isinstance(value, int | float) and not math.isnan(value)


def _check_step(step: Any) -> None:
    if not _is_number(step):
        raise TypeError(f"step: expected a number, got a {type(step).__name__}")
    if not 0 <= float(step) < 2**53:
        raise ValueError(f"step: expected a number of at least 0, got {float(step)}")


def _check_tensors(states: Mapping[int, Any]) -> None:
    """Refuse small files that become large: torch may copy a tensor once per reference in the state."""
    tensors = list(_tensors_in(states))
    num_bytes = sum({id(tensor): tensor.nbytes for tensor in tensors}.values())
    wanted = sum(tensor.nbytes for tensor in tensors)
    if wanted > 2 * num_bytes + 2**20:
        raise ValueError(f"{num_bytes:,} bytes of tensors are named so often that they would be {wanted:,}")


def _tensors_in(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, Mapping | list | tuple):
        for value in node.values() if isinstance(node, Mapping) else node:
            yield from _tensors_in(value)
