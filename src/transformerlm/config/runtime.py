"""[runtime]: device, precision and implementation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transformerlm.schema import NonNegativeInt, NumThreads, Section


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeConfig(Section):
    """[runtime]: device, precision, implementation, seed; nothing here changes the architecture."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """"auto": the first of cuda, mps and cpu that this machine has."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the matrix products; weights stay float32. "auto": on a CPU the faster of float32 and
    bfloat16 for this model, measured and kept; elsewhere bfloat16 if the device has it. A resumed run keeps
    the one that it began with."""
    attention: Literal["auto", "reference", "torch"] = "auto"
    """"reference": the formula, step by step. "torch": PyTorch's fused kernel. "auto": the faster one."""
    kernels: bool = True
    """On a CPU, run norms, activations, RoPE, attention, loss, optimizer and whole steps of generation in
    this package's own kernels, which are compiled once. false: use PyTorch's operations."""
    compile: bool = False
    """Use torch.compile, instead of kernels; if it fails, warn once and continue without it."""
    activation_checkpointing: bool = False
    """Do not store the activations inside a block; compute them again in the backward pass: less memory,
    about a third more time."""
    sharding: Literal["none", "full"] = "none"
    """On several devices (torchrun): "none" keeps the whole model on each (DDP); "full" divides weights,
    gradients and optimizer state among them (FSDP2)."""
    deterministic: bool = False
    """Use only operations that give the same bits each time, some of them slower (on a CPU all do)."""
    num_threads: NumThreads | None = None
    """CPU threads of torch. None: torch's default, but no more than the process's quota of processor time,
    or an equal part of the cores for each rank of a machine."""
    seed: NonNegativeInt = 0
    """Seed of the initial weights, the order of the data, and sampling."""
