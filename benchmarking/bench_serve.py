"""Throughput and waiting of a server under load: ours beside llama-cpp-python's, on the same weights.

    python -m benchmarking.bench_serve --config configs/bench_serve.toml

Weights and prompts are random. Each server is a process; for each number of clients the servers are asked in
turn, round by round, and the medians are compared. The clients run in this process, on the same processors.

Results are JSON lines on stdout; but for a temporary one, no file is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarking.serve_jobs import Text, ask, free_port, llama_command, our_command, running, write_models
from transformerlm.cli.command import Command, run_command
from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.logging import names
from transformerlm.schema import FilePath, NonNegativeFloat, NonNegativeInt, PositiveInt, Section

OURS, LLAMA_CPP = "transformerlm", "llama.cpp"
SERVER = "llama_cpp.server.app"
"""Module of llama-cpp-python's server."""
Requests = list[list[dict[str, Any]]]
"""The requests of each client."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSection(Section):
    """[bench]: how many clients, and what they ask for."""

    num_clients: tuple[PositiveInt, ...] = (1, 8, 64)
    """Numbers of clients that ask at a time."""
    texts_per_client: PositiveInt = 2
    """Texts that each client asks for, one after the other."""
    prompt_bytes: PositiveInt = 32
    """Bytes of each prompt, all different."""
    max_new_tokens: PositiveInt = 100
    """Tokens of each text, which few random models end by themselves."""
    temperature: NonNegativeFloat = 1.0
    """0: greedy."""
    warmup_rounds: NonNegativeInt = 1
    """Rounds that are not counted."""
    rounds: PositiveInt = 3
    """Measured rounds; in each, every server is asked once."""
    peers: tuple[Literal["llama.cpp"], ...] = ("llama.cpp",)
    """Peers to compare with; one that is not installed is named and left out. llama.cpp answers one request
    after the other; where ours is in bfloat16 it is in float16."""
    peer_python: FilePath | None = None
    """Interpreter of an environment that has llama_cpp and what its server needs (fastapi, sse-starlette,
    starlette-context, pydantic-settings), whose versions may not fit ours. None: this one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchServeConfig(Section):
    """benchmarking.bench_serve."""

    bench: BenchSection = field(default_factory=BenchSection)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(vocab_size=10000))
    runtime: RuntimeConfig = field(default_factory=lambda: RuntimeConfig(dtype="float32"))


@dataclass(frozen=True)
class Round:
    """One server, asked once by all clients."""

    seconds: float
    texts: list[Text]

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all texts over the whole time."""
        return sum(text.num_tokens for text in self.texts) / self.seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    command = Command(BenchServeConfig, bench, description="Measure servers under load.")
    return run_command(command, argv)


def bench(config: BenchServeConfig) -> int:
    """Start the servers, and ask them in turn."""
    from transformerlm.logging import ConsoleLogger
    from transformerlm.runtime import prepare_process

    logger, runtime = ConsoleLogger(), prepare_process(config.runtime)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        ports = start(config, Path(folder), stack)
        for num_clients in config.bench.num_clients:
            for values in race(config.bench, num_clients, ports):
                logger.log({**values, "bench.device": str(runtime)})
    return 0


def start(config: BenchServeConfig, folder: Path, stack: contextlib.ExitStack) -> dict[str, int]:
    """Start a server for each contestant; return their ports."""
    import torch

    is_float32 = config.runtime.dtype == "float32"
    run, gguf = write_models(config.model, folder, "float32" if is_float32 else "float16")
    threads = torch.get_num_threads()
    runtime = dataclasses.replace(config.runtime, num_threads=threads)
    ports = {OURS: free_port()}
    commands = {OURS: our_command(run, ports[OURS], runtime)}
    python = config.bench.peer_python or sys.executable
    if LLAMA_CPP in config.bench.peers and gguf is not None and is_installed(python):
        ports[LLAMA_CPP] = free_port()
        commands[LLAMA_CPP] = llama_command(python, gguf, ports[LLAMA_CPP], config.model, threads)
    for name, command in commands.items():
        stack.enter_context(running(command, ports[name]))
    return ports


def is_installed(python: str) -> bool:
    """Return True if llama-cpp-python's server can be started with an interpreter; else say why not."""
    command = [python, "-c", f"import {SERVER}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        why = (done.stderr.splitlines() or [""])[-1]
        is_there = done.returncode == 0
    except OSError as error:
        is_there, why = False, str(error.strerror)
    if not is_there:
        print(f"{python} does not import {SERVER} ({why}): {LLAMA_CPP} is left out", file=sys.stderr)
    return is_there


def race(
    bench: BenchSection, num_clients: int, ports: dict[str, int]
) -> Iterator[dict[str, float | int | str]]:
    """Ask all servers in turn; yield one record for each."""
    rounds: dict[str, list[Round]] = {name: [] for name in ports}
    for number in range(bench.warmup_rounds + bench.rounds):
        for name, port in ports.items():
            began = time.perf_counter()
            texts = ask(port, requests(bench, num_clients, number))
            rounds[name].append(Round(time.perf_counter() - began, texts))
    ours = rates(rounds[OURS][bench.warmup_rounds :])
    for name, own in rounds.items():
        counted = own[bench.warmup_rounds :]
        yield {
            "bench.work": f"{num_clients} clients",
            "bench.contestant": name,
            names.TOKENS_PER_SECOND: rates(counted),
            names.FIRST_TOKEN_MS: 1000 * median(counted, "first_seconds"),
            names.LATENCY_MS: 1000 * median(counted, "seconds"),
            "bench.times_slower_than_ours": ours / rates(counted),
        }


def requests(bench: BenchSection, num_clients: int, number: int) -> Requests:
    """Return the requests of a round: the same for all servers, and others in each round."""
    draw = random.Random(number)

    def request() -> dict[str, Any]:
        prompt = "".join(draw.choices(string.ascii_letters, k=bench.prompt_bytes))
        how = {"temperature": bench.temperature, "top_p": 1.0, "seed": draw.randrange(2**31)}
        return {"prompt": prompt, "max_tokens": bench.max_new_tokens, **how}

    return [[request() for _ in range(bench.texts_per_client)] for _ in range(num_clients)]


def rates(rounds: Sequence[Round]) -> float:
    """Return the median of the rounds' tokens per second."""
    return statistics.median(one.tokens_per_second for one in rounds)


def median(rounds: Sequence[Round], key: str) -> float:
    """Return the median over all texts of all rounds."""
    values: list[float] = [getattr(text, key) for one in rounds for text in one.texts]
    return statistics.median(values)


if __name__ == "__main__":
    sys.exit(main())
