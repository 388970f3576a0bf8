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
    weights: Literal["auto", "float32", "bfloat16", "int8", "int4"] = "auto"
    """Storage of the weights of a model that writes, serves or is scored; training keeps float32. "auto": as
    `dtype` says; scoring takes float32. "int8", "int4": all matrices in eight or four bits, 32 numbers with
    a scale (GGML's Q8_0 and Q4_0), for products in float32: less memory and more tokens per second, for
    slightly different texts. `transformerlm-eval --compare-weights` says what that costs. The model's widths
    must be multiples of 32."""
    attention: Literal["auto", "kernels", "reference", "torch"] = "auto"
    """"reference": the formula, step by step. "torch": PyTorch's fused kernel. "kernels": batched products
    and this package's kernels; where those do not run, as "torch". "auto": the faster of "kernels" and
    "torch" for this model; training on a CPU measures it, and a resumed run keeps what it began with."""
    kernels: bool = True
    """On a CPU, run norms, activations, RoPE, attention, loss, optimizer and whole steps of generation in
    this package's own kernels, which are compiled once. false: use PyTorch's operations."""
    compile: bool | Literal["auto"] = "auto"
    """Use torch.compile, instead of kernels; if it fails, warn once and continue without it. "auto": in
    training on a GPU if a block of this model is clearly faster with it, measured and kept, and the run is
    long enough; else not."""
    activation_checkpointing: bool = False
    """Do not store the activations inside a block; compute them again in the backward pass: less memory,
    about a third more time."""
    sharding: Literal["none", "full"] = "none"
    """On several devices (torchrun): "none" keeps the whole model on each (DDP); "full" divides weights,
    gradients and optimizer state among them (FSDP2)."""
    ngram_memory: bool | Literal["auto"] = "auto"
    """Mix a model's probabilities with the memory of n-grams that its run has kept, if
    [training].ngram_memory was set. "auto": where transformerlm-eval scores text, unless it compares weights;
    not where text is written, since much of that would be quoted from the training text."""
    deterministic: bool = False
    """Use only operations that give the same bits each time, some of them slower (on a CPU all do)."""
    num_threads: NumThreads | Literal["auto"] = "auto"
    """CPU threads of torch. "auto": torch's default, but no more than the process's quota of processor time,
    or an equal part of the cores for each rank of a machine. `transformerlm-train` takes what is fastest for
    the model, measured and kept; while the machine has other work it takes fewer, if steps are faster so, and
    records each change, which may alter last bits. Not with `deterministic` or several ranks."""
    seed: NonNegativeInt = 0
    """Seed of the initial weights, the order of the data, and sampling."""
