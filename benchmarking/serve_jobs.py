"""Servers of bench_serve, each a process, and the clients that ask them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarking.peers import END, gguf_of, some_tokenizer
from transformerlm.config import GenerationConfig, ModelConfig, RuntimeConfig

START_SECONDS = 120
"""Time for a server to load its model."""


@dataclass(frozen=True)
class Text:
    """What a client saw of one text."""

    num_tokens: int
    first_seconds: float
    seconds: float


def write_models(shape: ModelConfig, folder: Path, dtype: str) -> tuple[Path, Path | None]:
    """Write one random model as a run of ours and, if its packages are installed, as a GGUF file."""
    import torch

    from transformerlm.checkpoint.store import write_checkpoint
    from transformerlm.config import TrainConfig
    from transformerlm.nn import TransformerLM
    from transformerlm.schema import to_dict

    torch.manual_seed(0)
    model, tokenizer = TransformerLM(shape), some_tokenizer(shape.vocabulary_rows)
    run = folder / "run"
    config = TrainConfig(model=shape, generation=GenerationConfig(eos_token=END))
    about = {"config": to_dict(config), "identity": {"tokenizer": tokenizer.fingerprint}}
    tokenizer.save(run / "tokenizer")
    write_checkpoint(run / "checkpoints", 1, model.state_dict(), {}, about)
    return run, gguf_of(model, dtype, folder, ("gguf",))


def our_command(run: Path, port: int, runtime: RuntimeConfig) -> list[str]:
    """Return the command of our server."""
    threads = f"--runtime.num_threads={runtime.num_threads}"
    keys = [f"--runtime.dtype={runtime.dtype}", threads, f"--runtime.device={runtime.device}"]
    return [sys.executable, "-m", "transformerlm.cli.serve", str(run), "--port", str(port), *keys]


def llama_command(python: str, gguf: Path, port: int, shape: ModelConfig, threads: int) -> list[str]:
    """Return the command of llama-cpp-python's server, which answers one request after the other.

    Args:
        python: the interpreter.
    """
    keys = {
        "model": gguf,
        "port": port,
        "n_ctx": shape.context_length,
        "n_threads": threads,
        "n_threads_batch": threads,
        "interrupt_requests": False,
        "verbose": False,
    }
    words = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    return [python, "-m", "llama_cpp.server", *words]


@contextlib.contextmanager
def running(command: Sequence[str], port: int) -> Iterator[None]:
    """Run a server until the end of the block.

    Raises:
        RuntimeError: it does not start.
    """
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(server, port)
            yield
        finally:
            server.kill()


def wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    """Wait until a server lists its model."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5),
        ):
            return
        time.sleep(0.2)
    raise RuntimeError("the server does not start")


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def ask(port: int, requests: Sequence[Sequence[Mapping[str, Any]]]) -> list[Text]:
    """Ask a server, as many clients at once as there are lists of requests, each for one after the other."""
    return asyncio.run(_ask_all(port, requests))


async def _ask_all(port: int, requests: Sequence[Sequence[Mapping[str, Any]]]) -> list[Text]:
    texts = await asyncio.gather(*(_client(port, own) for own in requests))
    return [text for own in texts for text in own]


async def _client(port: int, requests: Sequence[Mapping[str, Any]]) -> list[Text]:
    return [await _text(port, request) for request in requests]


async def _text(port: int, request: Mapping[str, Any]) -> Text:
    body = json.dumps({**request, "stream": True}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    start, first, num_events, is_whole = time.perf_counter(), 0.0, 0, False
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + body)
    async for line in reader:
        if line.startswith(b"data: {"):
            first = first or time.perf_counter() - start
            num_events += 1
            is_whole = is_whole or b'"finish_reason":"length"' in line.replace(b": ", b":")
    writer.close()
    if not num_events:
        raise RuntimeError("an answer without a token")
    # Some tokens of random texts are parts of characters, which have no event of their own.
    num_tokens = request["max_tokens"] if is_whole else num_events
    return Text(num_tokens, first, time.perf_counter() - start)
