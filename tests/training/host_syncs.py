"""A mode in which nothing may make the host wait for a device, tested with tensors of the CPU."""

import contextlib

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

METHODS = {
    *("item", "tolist", "cpu", "numpy", "nonzero", "unique", "masked_select", "allclose", "equal"),
    *("__bool__", "__float__", "__int__", "__index__", "__array__", "__format__"),
}
"""Of tensors, and functions of torch, for whose results or shapes the host waits."""
OPERATIONS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "is_nonzero"}


class HostSyncError(Exception):
    pass


class _Methods(TorchFunctionMode):
    def __torch_function__(self, function, types, arguments=(), options=None):
        if getattr(function, "__name__", "") in METHODS:
            raise HostSyncError(function.__name__)
        return function(*arguments, **(options or {}))


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        if name in OPERATIONS:
            raise HostSyncError(name)
        return function(*arguments, **(options or {}))


@contextlib.contextmanager
def no_host_syncs():
    with _Methods(), _Operations():
        yield
