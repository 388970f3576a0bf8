"""The machine at hand: device, what it is fast at, its other work, and its out-of-memory errors.

What "auto" in [runtime] stands for is measured once and kept beside the compiled kernels: precision.py,
thread_count.py, implementation.py; before PyTorch is imported, how long threads wait (kernels/threads.py).
load_watch.py and thread_adapter.py follow the machine's other work during a run.
"""

from transformerlm.runtime.ceiling import measured_flops_ceiling
from transformerlm.runtime.device import resolve_device
from transformerlm.runtime.host_copy import HostCopy
from transformerlm.runtime.implementation import choose_attention, choose_compilation
from transformerlm.runtime.load_watch import LoadWatch
from transformerlm.runtime.machine import Machine, this_machine
from transformerlm.runtime.out_of_memory import (
    SMALLER_MICRO_BATCH,
    SMALLER_MODEL,
    first_line,
    is_out_of_memory,
    memory_for,
)
from transformerlm.runtime.precision import Precision, choose_precision
from transformerlm.runtime.runtime import Runtime, compiled, prepare_process, set_up_process
from transformerlm.runtime.thread_adapter import ThreadAdapter, ThreadChange
from transformerlm.runtime.thread_count import choose_num_threads

__all__ = [
    "SMALLER_MICRO_BATCH",
    "SMALLER_MODEL",
    "HostCopy",
    "LoadWatch",
    "Machine",
    "Precision",
    "Runtime",
    "ThreadAdapter",
    "ThreadChange",
    "choose_attention",
    "choose_compilation",
    "choose_num_threads",
    "choose_precision",
    "compiled",
    "first_line",
    "is_out_of_memory",
    "measured_flops_ceiling",
    "memory_for",
    "prepare_process",
    "resolve_device",
    "set_up_process",
    "this_machine",
]
