"""Contestants of bench_infer_latency: each prepares a model and returns a function that generates once.

They run in processes of their own, so everything is imported inside. A process keeps its model from one work
to the next.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarking.peers import gguf_of, hugging_face_llama
from benchmarking.timing import Run
from transformerlm.config import ModelConfig, RuntimeConfig

Prompts = list[list[int]]


@dataclass(frozen=True)
class Job:
    """Job of a contestant: prompts, lengths and sampling settings."""

    contestant: str
    model: ModelConfig
    runtime: RuntimeConfig
    prompts: Prompts
    num_tokens: int
    temperature: float
    top_p: float
    folder: Path
    """Folder for files."""


def whole_text(job: Job) -> Run:
    """Generate all tokens of the job."""
    run = CONTESTANTS[job.contestant](job)
    synchronize = process_runtime(job.runtime).synchronize

    def synchronized() -> None:
        run()
        synchronize()

    return synchronized


def first_token(job: Job) -> Run:
    """Generate one token after each prompt."""
    return whole_text(replace(job, num_tokens=1))


@functools.cache
def process_runtime(config: RuntimeConfig) -> Any:
    """Prepare this process as the commands do: device, precision, threads, seed."""
    from transformerlm.runtime import Runtime

    return Runtime.from_config(config)


@functools.cache
def our_model(shape: ModelConfig, runtime: RuntimeConfig) -> Any:
    """Return a model with random weights, the same in every process."""
    from transformerlm.nn import TransformerLM

    resolved = process_runtime(runtime)
    backend = runtime.attention
    return TransformerLM(shape, backend=backend, device=resolved.device, dtype=resolved.dtype)


@functools.cache
def our_stored_model(shape: ModelConfig, runtime: RuntimeConfig) -> Any:
    """Return `our_model` with its weights stored as [runtime].weights says."""
    from transformerlm.nn.quantization import quantize, quantize_

    model, storage = our_model(shape, runtime), runtime.weights
    if storage in ("int8", "int4"):
        quantize_(model, lambda name, weight: quantize(weight, storage))
    return model


def ours(job: Job) -> Run:
    """Use this package's model and `generate`."""
    from transformerlm.infer import generate

    model = our_stored_model(job.model, job.runtime)
    return lambda: generate(
        model,
        job.prompts,
        max_new_tokens=job.num_tokens,
        temperature=job.temperature,
        top_p=job.top_p,
        kernels=job.runtime.kernels,
    )


@functools.cache
def hugging_face_model(shape: ModelConfig, runtime: RuntimeConfig) -> Any:
    """Return transformers' LlamaForCausalLM of the same shape."""
    resolved = process_runtime(runtime)
    return hugging_face_llama(shape).to(resolved.device, resolved.dtype).eval()  # type: ignore[union-attr]


def hugging_face(job: Job) -> Run:
    """Use transformers' own `generate`, padded on the left."""
    import torch

    model, device = hugging_face_model(job.model, job.runtime), process_runtime(job.runtime).device
    how = {"do_sample": True, "temperature": job.temperature, "top_p": job.top_p, "top_k": 0}
    options = how if job.temperature else {"do_sample": False}
    longest = max(map(len, job.prompts))

    def padded(values: Callable[[list[int]], list[int]]) -> torch.Tensor:
        rows = [[0] * (longest - len(prompt)) + values(prompt) for prompt in job.prompts]
        return torch.tensor(rows, dtype=torch.long, device=device)

    ids, mask = padded(list), padded(lambda prompt: [1] * len(prompt))

    def run() -> None:
        written = model.generate(ids, attention_mask=mask, max_new_tokens=job.num_tokens, **options)
        assert written.shape[1] == longest + job.num_tokens

    return run


@functools.cache
def llama_cpp_model(shape: ModelConfig, runtime: RuntimeConfig, folder: Path) -> Any:
    """Return llama.cpp's model with our weights, from a GGUF file that is written for it."""
    import torch
    from llama_cpp import Llama

    names = {"int8": "q8_0", "int4": "q4_0"}
    plain = "float32" if process_runtime(runtime).dtype == torch.float32 else "float16"
    dtype = names.get(runtime.weights, plain)
    path, threads = gguf_of(our_model(shape, runtime), dtype, folder), torch.get_num_threads()
    return Llama(
        str(path), n_ctx=shape.context_length, n_threads=threads, n_threads_batch=threads, verbose=False
    )


def llama_cpp(job: Job) -> Run:
    """Use llama.cpp; one text at a time."""
    llama, (prompt,) = llama_cpp_model(job.model, job.runtime, job.folder), job.prompts
    how = {"temp": job.temperature, "top_p": job.top_p, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}

    def run() -> None:
        llama.reset()
        written = itertools.islice(llama.generate(prompt, **how), job.num_tokens)
        assert sum(1 for _ in written) == job.num_tokens

    return run


CONTESTANTS: dict[str, Callable[[Job], Run]] = {
    "transformerlm": ours,
    "transformers": hugging_face,
    "llama.cpp": llama_cpp,
}
