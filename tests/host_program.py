"""Public entry points as a host program calls them, and state of its process that they may not change.

Each entry point is a function of a folder made by `prepare`; `digest` turns its result into a string that is
equal for equal bits. As a script, this file runs all of them under each of `HOST_SETTINGS`, in one process,
and prints a line of JSON per call: [setting, entry point, digest].
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import locale
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.small_models import END, language_model, save_run, tokenizer
from transformerlm.checkpoint import load_checkpoint, save_checkpoint
from transformerlm.config import CorpusConfig, EvalSection, OptimizerConfig, RuntimeConfig
from transformerlm.data import BatchSampler, TokenFile, make_data, validation_windows
from transformerlm.evaluation.documents import load_for_scoring, score
from transformerlm.evaluation.loss import evaluate
from transformerlm.evaluation.text import Text
from transformerlm.infer import generate, sample, stream
from transformerlm.language_model import LanguageModel
from transformerlm.nn import NextTokenLoss
from transformerlm.nn.fused import use_kernels_
from transformerlm.optim import make_optimizer
from transformerlm.progress import SilentReporter
from transformerlm.runtime import Runtime
from transformerlm.tokenizer import Tokenizer, train_bpe_from_texts

RUNTIME = RuntimeConfig(device="cpu", dtype="float32", seed=77, num_threads=1, deterministic=True)
"""Seed, threads and determinism are for commands: from Python they must change nothing."""
CPU = Runtime(torch.device("cpu"), torch.float32, kernels=True)
TEXT = "The fox, they've said, met 1234 crows; naïve 中文 text. "
SETTINGS: dict[str, Any] = {"max_new_tokens": 24, "seed": 3, "temperature": 1.1, "repetition_penalty": 1.2}


def prepare(folder: Path) -> Path:
    """Write a run, a corpus and its token files."""
    save_run(language_model(num_kv_heads=2, qk_norm=True), folder / "run")
    (folder / "corpus").mkdir()
    for number in range(6):
        (folder / "corpus" / f"{number}.txt").write_text(TEXT * (number + 1), encoding="utf-8")
    make_data(corpus(folder), tokenizer(), folder / "tokens")
    return folder


def corpus(folder: Path) -> CorpusConfig:
    return CorpusConfig(corpus=str(folder / "corpus"), validation_fraction=0.3)


def loaded(folder: Path) -> LanguageModel:
    return LanguageModel.load(folder / "run", RUNTIME)


def load_in_bfloat16(folder: Path) -> Any:
    lm = LanguageModel.load(folder / "run", RuntimeConfig(device="cpu", dtype="bfloat16"))
    return lm.model.state_dict(), lm.generate(TEXT, **SETTINGS)


def stream_and_complete(folder: Path) -> Any:
    lm = loaded(folder)
    completions = lm.complete([TEXT, ""], num_samples=2, log_probs=True, **SETTINGS)
    return [*lm.stream(TEXT, **SETTINGS)], [(c.text, c.token_ids, c.log_probs) for c in completions]


def generate_ids(folder: Path) -> Any:
    model, prompts = loaded(folder).model, [tokenizer().encode(TEXT), [5, 6]]
    choices = ({"kernels": True}, {"kernels": False}, {"use_cache": False})
    streamed = [*stream(model, prompts[1], max_new_tokens=9, kernels=True)]
    return [generate(model, prompts, **SETTINGS, **choice) for choice in choices], streamed


def sample_tokens(folder: Path) -> Any:
    logits = torch.linspace(-3, 3, 40, dtype=torch.float32, device="cpu").repeat(8, 1)
    uniforms = torch.linspace(0, 0.99, 8, dtype=torch.float32, device="cpu")
    generator = torch.Generator(device="cpu").manual_seed(0)
    return sample(logits, 0.9, 0.8, 20, uniforms=uniforms), sample(logits, generator=generator)


def score_documents(folder: Path) -> Any:
    lm = load_for_scoring(folder / "run", RUNTIME)
    text = Text.find(corpus(folder), str(folder / "corpus"))
    scores = score(lm, text, EvalSection(eos_token=END), SilentReporter())
    return scores.nats, scores.num_tokens, scores.loss.value


def evaluate_loss(folder: Path) -> Any:
    tokens = TokenFile.open(folder / "tokens" / "val.memmap").tokens
    batches = validation_windows(tokens, 3, 16)
    found = evaluate(NextTokenLoss(loaded(folder).model), batches, CPU, tokens_per_byte=0.4)
    return found.loss, found.bits_per_byte


def use_tokenizer(folder: Path) -> Any:
    vocab, merges = train_bpe_from_texts([TEXT * 3], 300, [END])
    own = Tokenizer(vocab, merges, [END])
    with tempfile.TemporaryDirectory() as temporary:
        own.save(Path(temporary) / "tokenizer")
        again = Tokenizer.from_dir(Path(temporary) / "tokenizer")
    return again.fingerprint, again.encode(TEXT), again.decode(own.encode(TEXT))


def make_token_files(folder: Path) -> Any:
    with tempfile.TemporaryDirectory() as temporary:
        made = make_data(corpus(folder), tokenizer(), Path(temporary) / "tokens")
        return np.array(made.train.tokens), np.array(made.val.tokens)


def draw_batches(folder: Path) -> Any:
    tokens = TokenFile.open(folder / "tokens" / "train.memmap").tokens
    sampler = BatchSampler(tokens, 4, 8, seed=3)
    return [*sampler.batch(0), *sampler.batch(5)], [*validation_windows(tokens, 4, 16)]


def train_steps(name: str, kernels: bool) -> Callable[[Path], Any]:
    def train(folder: Path) -> Any:
        model = loaded(folder).model.train()
        loss_of = NextTokenLoss(model)
        if kernels:
            use_kernels_(loss_of)
        optimizer = make_optimizer(model, OptimizerConfig(name=name, lr=1e-2), kernels=kernels)
        tokens, losses = TokenFile.open(folder / "tokens" / "train.memmap").tokens, []
        for step in range(3):
            loss = loss_of(*BatchSampler(tokens, 4, 8).batch(step))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses, model.state_dict()

    return train


def save_and_load_checkpoint(folder: Path) -> Any:
    models = [loaded(folder).model for _ in range(2)]
    optimizers = [make_optimizer(model, OptimizerConfig()) for model in models]
    file = io.BytesIO()
    save_checkpoint(models[0], optimizers[0], 5, file)
    written = file.getvalue()
    file.seek(0)
    return load_checkpoint(file, models[1], optimizers[1]), models[1].state_dict(), written


ENTRY_POINTS: dict[str, Callable[[Path], Any]] = {
    "load": lambda folder: loaded(folder).model.state_dict(),
    "load in bfloat16": load_in_bfloat16,
    "generate": lambda folder: loaded(folder).generate([TEXT, "a"], **SETTINGS),
    "stream, complete": stream_and_complete,
    "infer.generate": generate_ids,
    "sample": sample_tokens,
    "score": score_documents,
    "evaluate": evaluate_loss,
    "tokenizer": use_tokenizer,
    "make_data": make_token_files,
    "batches": draw_batches,
    "checkpoint": save_and_load_checkpoint,
}
TRAINING: dict[str, Callable[[Path], Any]] = {
    "AdamW": train_steps("adamw", kernels=False),
    "AdamW, kernels": train_steps("adamw", kernels=True),
    "Muon, kernels": train_steps("muon", kernels=True),
}
"""Not called in inference mode, where there are no gradients."""


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


HOST_SETTINGS: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "plain": contextlib.nullcontext,
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default device meta": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "deterministic algorithms": deterministic,
}


def digest(value: Any) -> str:
    """A string that is equal for values of equal types, shapes and bits."""
    return hashlib.sha256(repr(_plain(value)).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        content = value.detach().contiguous().view(torch.uint8).numpy().tobytes()
        return str(value.dtype), str(value.device), tuple(value.shape), content
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return [(key, _plain(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, float) else value


def process_state() -> dict[str, Any]:
    """What is global to the process and belongs to the host."""
    return {
        "torch random state": torch.get_rng_state().tolist(),
        "numpy random state": str(np.random.get_state()),
        "random state": random.getstate(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "matmul precision": torch.get_float32_matmul_precision(),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "warnings": list(warnings.filters),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "excepthook": sys.excepthook,
    }


def main(folder: Path) -> None:
    for setting, enter in HOST_SETTINGS.items():
        entry_points = ENTRY_POINTS if setting == "inference mode" else ENTRY_POINTS | TRAINING
        for name, call in entry_points.items():
            try:
                with enter():
                    found = digest(call(folder))
            except Exception as error:  # whatever it is, the test shows it
                found = f"{type(error).__name__}: {error}"
            print(json.dumps([setting, name, found]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
