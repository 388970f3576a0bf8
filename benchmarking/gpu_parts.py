"""Parts of bench_gpu: each runs in a process of its own and returns a row of the table.

    python -m benchmarking.gpu_parts PART JOB BATCH_SIZES

JOB is a `Job` as JSON. The last line on stdout is a JSON object of the part's numbers. Only what is needed is
imported, inside the functions; what is not installed is named, and left out.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from benchmarking.gpu_job import Job, LeftOutError, Numbers, measured
from benchmarking.gpu_training import (
    muon,
    out_of_memory,
    peer_training,
    prefetch,
    resume,
    sharded,
    training,
)

ROOT = Path(__file__).parents[1]


def machine(job: Job) -> Numbers:
    """Measure the ceilings of matrix products and of memory."""
    import torch

    from transformerlm.runtime import Runtime, measured_flops_ceiling

    runtime = Runtime.from_config(job.runtime())
    size = 2**28 if job.device == "cuda" else 2**22
    source = torch.zeros(size, dtype=torch.float32, device=runtime.device)
    target = torch.empty_like(source)
    seconds = measured(lambda: target.copy_(source), runtime.synchronize, job.seconds / 5)
    flops = measured_flops_ceiling(runtime, job.seconds / 5)
    return {
        "device": str(runtime),
        "flops": flops,
        "bytes_per_second": 2 * source.nbytes / seconds,
        "torch": torch.__version__,
    }


def tests(job: Job) -> Numbers:
    """Run the tests that need a GPU."""
    if job.device != "cuda":
        raise LeftOutError("no GPU")
    if find_spec("pytest") is None:
        raise LeftOutError("pytest is not installed")
    options = ["-q", "-m", "gpu", "-n", "0", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]]
    failed = [line for line in lines if line.startswith("FAILED")]
    return {"said": lines[-1], **({"failed": "; ".join(failed)[:200]} if failed else {})}


def generation(job: Job, num_texts: int, name: str = "ours") -> Numbers:
    """Measure generation from short prompts."""
    import torch

    from benchmarking.infer_jobs import Job as TextJob
    from benchmarking.infer_jobs import hugging_face
    from transformerlm.infer import generate
    from transformerlm.nn import TransformerLM, num_parameters
    from transformerlm.runtime import Runtime

    runtime = Runtime.from_config(job.runtime())
    new_tokens = min(job.new_tokens, job.shape.context_length - 8)
    prompts = [[1 + number % 100, 2, 3, 4] for number in range(num_texts)]
    if name == "ours":
        model = TransformerLM(job.shape, device=runtime.device, dtype=runtime.dtype)
        work: Callable[[], object] = functools.partial(
            generate, model, prompts, max_new_tokens=new_tokens, temperature=0.8, kernels=runtime.kernels
        )
    elif find_spec("transformers") is None:
        raise LeftOutError("transformers is not installed")
    else:
        text_job = TextJob(
            name, job.shape, job.runtime(), prompts, new_tokens, temperature=0.8, top_p=1.0, folder=Path()
        )
        work = hugging_face(text_job)
    with torch.no_grad():
        seconds = measured(work, runtime.synchronize, job.seconds)
    weights = num_parameters(job.shape) * runtime.dtype.itemsize
    return {
        "tokens_per_second": num_texts * new_tokens / seconds,
        "bytes_per_second": weights * new_tokens / seconds,
    }


def few_bits() -> Numbers:
    """Weights in few bits: there are none on a GPU."""
    raise LeftOutError("for CPUs alone")


def beside(name: str) -> str:
    """Return the part whose tokens/s those of a part are compared with: it is the same but for one thing."""
    if name.startswith("generate "):
        return name.partition(":")[0]
    is_compiled = name == "train" or name.endswith(("compile", "nanoGPT", "transformers"))
    return "train" if is_compiled else "train without compile"


def parts(job: Job, batch_sizes: tuple[int, ...]) -> dict[str, Callable[[], Numbers]]:
    """Return all parts, the most important ones first."""
    compile_ = {"compile": job.device == "cuda"}
    found: dict[str, Callable[[], Numbers]] = {
        "machine": lambda: machine(job),
        "tests": lambda: tests(job),
        "train": lambda: training(job, compile_),
        "train: nanoGPT": lambda: peer_training(job, "nanoGPT"),
        "train: transformers": lambda: peer_training(job, "transformers"),
        "train without compile": lambda: training(job),
        "train without fused attention": lambda: training(job, {"attention": "reference"}),
        "train without fused optimizer": lambda: training(job, guarded=False),
        "prefetch": lambda: prefetch(job),
        "resume": lambda: resume(job),
    }
    for number in batch_sizes:
        found[f"generate {number}"] = functools.partial(generation, job, number)
        found[f"generate {number}: transformers"] = functools.partial(generation, job, number, "transformers")
    return found | {
        "train float16": lambda: training(job, {"dtype": "float16", "kernels": False}),
        "train with checkpointing": lambda: training(job, {"activation_checkpointing": True}),
        "train muon": lambda: muon(job),
        "out of memory": lambda: out_of_memory(job),
        "train sharded": lambda: sharded(job),
        "int8, int4": few_bits,
    }


def main(argv: list[str]) -> int:
    """Run one part, and print its numbers."""
    name, values, batch_sizes = argv
    job = Job(**json.loads(values))
    try:
        numbers = parts(job, tuple(json.loads(batch_sizes)))[name]()
    except LeftOutError as error:
        numbers = {"left_out": str(error)}
    print(json.dumps(numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
