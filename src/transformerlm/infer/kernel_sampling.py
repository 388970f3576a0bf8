"""`sampling.sample_rows` on a CPU, in one call of kernels.py: a small model's step is not much longer."""

from __future__ import annotations

import torch
from torch import Tensor

from transformerlm.infer.decoder import LIBRARY
from transformerlm.kernels import dispatch
from transformerlm.kernels.generation_layout import NUM_BINS


def sample_in_kernel(
    logits: Tensor, uniforms: Tensor, temperature: float, top_p: float, top_k: int | None, min_p: float
) -> Tensor:
    """An id for each row of float32 logits [rows, vocabulary]; -1 for a row that holds a NaN.

    Args:
        uniforms: float32 [rows], in [0, 1).
    """
    rows, width = logits.shape
    threads = min(rows, torch.get_num_threads())
    ids = torch.empty(rows, dtype=torch.long)
    scratch = torch.empty(threads * width)
    bins = torch.empty(threads * NUM_BINS, dtype=torch.float64)
    sampling = temperature, top_k or 0, top_p, min_p
    arguments = logits, uniforms, ids, scratch, bins, rows, logits.stride(0), width, *sampling
    dispatch.run_on(threads, LIBRARY, "sample", (torch.float32,), *arguments)
    return ids
