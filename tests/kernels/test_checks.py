"""The debug mode finds memory that a kernel would read or write past its end, or as other numbers."""

import pytest
import torch

from transformerlm.config import ModelConfig
from transformerlm.infer.decoder import KernelDecoder
from transformerlm.infer.sampling import Sampling, sample_with_kernel
from transformerlm.kernels import checks, dispatch
from transformerlm.kernels.checks import KernelMemoryError
from transformerlm.nn import KVCache, NextTokenLoss, TransformerLM, fused
from transformerlm.optim import AdamW, parameter_groups

CONFIG = ModelConfig(vocab_size=97, context_length=24, d_model=48, num_layers=2, num_heads=4, d_ff=80)


@pytest.fixture(autouse=True)
def debug_mode(monkeypatch):
    monkeypatch.setattr(checks, "IS_ON", True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_the_package_does_passes(dtype):
    loss = NextTokenLoss(TransformerLM(CONFIG))
    fused.use_kernels_(loss)
    ids = torch.randint(97, (3, 20))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss(ids, ids).backward()
    AdamW(parameter_groups(loss, 0.1), kernels=True).step()
    model = loss.model.to(dtype)
    with torch.inference_mode():
        logits = KernelDecoder(model, KVCache.for_model(CONFIG, 2, dtype=dtype))(torch.tensor([1, 2]))
        assert sample_with_kernel(
            logits, Sampling(temperature=1.0, top_p=0.9, top_k=5), torch.rand(2)
        ).shape == (2,)


def rms_norm(**changes):
    memory = {
        "x": torch.ones(3, 8),
        "weight": torch.ones(8),
        "out": torch.ones(3, 8),
        "inverse_rms": torch.ones(3),
    }
    values = memory | {"rows": 3, "width": 8, "eps": 1e-5} | changes
    dispatch.run("rms_norm", (torch.float32, torch.float32), *values.values())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"weight": torch.ones(8, dtype=torch.float64)}, "weight: expected torch.float32, got torch.float64"),
        ({"x": torch.ones(8, 3).T}, "x: expected contiguous memory"),
        ({"inverse_rms": torch.ones(2)}, "inverse_rms: expected memory for 3 numbers, got 2"),
        ({"rows": 4}, "x: expected memory for 32 numbers, got 24"),
        ({"out": 17}, "out: expected a tensor, got 17"),
        ({"width": torch.ones(1)}, "width: expected a number"),
        ({"out": torch.ones(3, 8, device="meta")}, "out: expected memory of the CPU"),
    ],
)
def test_a_mistake_is_told_before_the_kernel_runs(changes, problem):
    rms_norm()
    with pytest.raises(KernelMemoryError, match=f"^kernel rms_norm: {problem}"):
        rms_norm(**changes)


def test_every_address_of_every_kernel_has_a_size():
    from transformerlm.infer.decoder import LIBRARY

    for library in (dispatch.LIBRARY, LIBRARY):
        for name, kernel in vars(library.kernels()).items():
            if not hasattr(kernel, "parameters"):
                continue
            base = name.replace("_float32", "").replace("_bfloat16", "")
            arrays = {parameter for parameter, kind in kernel.parameters.items() if kind.endswith("*")}
            assert arrays <= checks.SIZES[base].keys(), name
