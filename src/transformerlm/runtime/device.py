"""Devices and dtypes by the names that [runtime] gives them."""

from __future__ import annotations

from typing import Literal, cast

import torch

from transformerlm.errors import ConfigError, Key

DtypeName = Literal["float32", "bfloat16", "float16"]
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Name in [runtime].dtype -> dtype."""


def dtype_name(dtype: torch.dtype) -> DtypeName:
    """Return the name of a dtype in [runtime].dtype."""
    return cast(DtypeName, next(name for name, own in DTYPES.items() if own == dtype))


def resolve_device(name: str) -> torch.device:
    """Return the device that [runtime].device names; "auto" takes cuda, else mps, else cpu.

    Raises:
        ConfigError: this machine does not have it.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, here in present.items() if here))
    if not present[name]:
        here = ", ".join(device for device in present if present[device])
        what = f"expected a device of this machine ({here}), got {name}"
        raise ConfigError(what, key=Key("runtime", "device"))
    return torch.device(name)
