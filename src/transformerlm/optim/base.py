"""PyTorch's optimizer class, without the import of its compiler."""

from __future__ import annotations

import inspect

import torch


class Optimizer(torch.optim.Optimizer):
    """Base class of this package's optimizers.

    PyTorch marks these methods as not to be compiled by a wrapper that imports the compiler when it is first
    called, which takes a second. Here they are without it: a compiled step is no use of this package.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
