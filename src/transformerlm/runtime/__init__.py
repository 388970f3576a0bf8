"""The machine at hand: device, precision, what it is fast at, and its out-of-memory errors."""

from transformerlm.runtime.ceiling import measured_flops_ceiling
from transformerlm.runtime.device import resolve_device
from transformerlm.runtime.out_of_memory import (
    SMALLER_MICRO_BATCH,
    SMALLER_MODEL,
    first_line,
    is_out_of_memory,
    memory_for,
)
from transformerlm.runtime.precision import Precision, choose_precision
from transformerlm.runtime.runtime import Runtime, compiled, prepare_process, set_up_process

__all__ = [
    "SMALLER_MICRO_BATCH",
    "SMALLER_MODEL",
    "Precision",
    "Runtime",
    "choose_precision",
    "compiled",
    "first_line",
    "is_out_of_memory",
    "measured_flops_ceiling",
    "memory_for",
    "prepare_process",
    "resolve_device",
    "set_up_process",
]
