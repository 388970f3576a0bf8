"""Which tensors the kernels take, on which threads they run, and where freed memory stays."""

import subprocess
import sys

import pytest
import torch

from transformerlm.kernels import dispatch, library


def norms(num_threads, monkeypatch):
    """A kernel's work and what each thread left, on so many threads."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    x, weight = torch.arange(1.0, 61).view(10, 6), torch.ones(6)
    out, inverse_rms = torch.zeros_like(x), torch.zeros(10)
    dispatch.run("rms_norm", (x.dtype, x.dtype), x, weight, out, inverse_rms, 10, 6, 0.0)
    return out


@pytest.mark.parametrize("openmp", [True, False])
@pytest.mark.parametrize("num_threads", [1, 2, 3, 16])
def test_every_part_is_done_once_on_any_threads(num_threads, openmp, monkeypatch):
    if not openmp:
        monkeypatch.setattr(library, "_openmp", lambda: None)
    elif sys.platform == "linux":
        assert library._openmp() is not None, "PyTorch's own threads were not found"
    x = torch.arange(1.0, 61).view(10, 6)
    torch.testing.assert_close(norms(num_threads, monkeypatch), x / x.square().mean(-1, keepdim=True).sqrt())


def test_kernels_take_plain_float32_and_bfloat16_tensors_alone():
    class Sharded(torch.Tensor):
        pass

    assert dispatch.can_serve(torch.nn.Parameter(torch.ones(2)))
    assert not dispatch.can_serve(torch.ones(2), torch.ones(2, dtype=torch.float64))
    assert not dispatch.can_serve(torch.ones(2).half())
    assert not dispatch.can_serve(torch.ones(2).as_subclass(Sharded))
    assert not dispatch.can_serve(torch.ones(2, device="meta"))
    with torch.autocast("cpu", torch.float16):
        assert not dispatch.can_serve(torch.ones(2))


FAULTS = """
import resource, sys, torch
from transformerlm.kernels import dispatch
if sys.argv[1] == "keep":
    dispatch.keep_freed_memory()
def use():
    torch.empty(64 * 2**20 // 4).fill_(1)
for _ in range(20):  # the C library's own cache takes the rests of the first ones, which keeps them apart
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the C library is another one")
def test_freed_memory_is_used_again_without_a_page_fault():
    def faults(choice):
        command = [sys.executable, "-c", FAULTS, choice]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < 100
    assert faults("give back") > 1000
