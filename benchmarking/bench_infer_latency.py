"""Generation speed: ours beside Hugging Face's `generate`, and llama.cpp, on a Llama of the same shape.

    python -m benchmarking.bench_infer_latency --config configs/bench_infer.toml
    python -m benchmarking.bench_infer_latency --config configs/bench_infer_llama_cpp.toml  # in ten minutes

Weights and prompts are random: what is measured is the machine's work, not the text. For each precision
and each work the contestants, each in a process of its own, generate in turn, and the medians are compared:
with several texts side by side; with one long prompt, whose first token is waited for; and with many prompts
of very different lengths. Each step reads every weight once at least: the share of the memory's own rate,
measured here too, says how far that is from the machine's limit.

Results are JSON lines on stdout; but for a temporary one, no file is written.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from benchmarking.infer_jobs import Job, Prompts, first_token, whole_text
from benchmarking.timing import NO_BFLOAT16, Contestants, Outcome, Task, has_bfloat16, nothing
from transformerlm.cli.command import Command, run_command
from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.errors import Key
from transformerlm.logging import names
from transformerlm.schema import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Problem,
    Section,
)

if TYPE_CHECKING:
    from transformerlm.runtime import Runtime

OURS, LLAMA_CPP = "transformerlm", "llama.cpp"
BYTES_PER_WEIGHT = {"int8": 34 / 32, "int4": 18 / 32}
"""Of quantized matrices, scales included."""
MODULES = {"transformers": ("transformers",), LLAMA_CPP: ("llama_cpp", "gguf")}
"""Packages that each peer needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSection(Section):
    """[bench]: how much to generate, and how often."""

    batch_sizes: tuple[PositiveInt, ...] = (1, 8)
    """Batch sizes."""
    dtypes: tuple[Literal["float32", "bfloat16", "float16", "int8", "int4"], ...] = ("float32", "bfloat16")
    """Precisions of weights, cache and products; they replace [runtime].dtype and weights. In int8 and int4
    the cache is in float32."""
    sizes: tuple[Literal["model", "larger"], ...] = ("model",)
    """Sections of the models to generate with, one after the other."""
    prompt_length: PositiveInt = 16
    """Tokens of each prompt."""
    max_new_tokens: PositiveInt = 200
    """Tokens generated after each prompt."""
    long_prompt_length: PositiveInt = 200
    """Tokens of the prompt in the measurement of the first token."""
    num_different: NonNegativeInt = 64
    """Prompts of very different lengths, from 1 to what fits the context with max_new_tokens; 0: none."""
    temperature: NonNegativeFloat = 1.0
    """0: greedy."""
    top_p: Probability = 0.9
    """Nucleus probability."""
    warmup_rounds: NonNegativeInt = 1
    """Rounds that are not counted."""
    rounds: PositiveInt = 5
    """Measured rounds; in each, every contestant generates once."""
    time_limit_seconds: PositiveFloat = 600.0
    """Time limit of the preparation and of a round; a slower contestant is named and left out."""
    peers: tuple[Literal["transformers", "llama.cpp"], ...] = ("transformers", "llama.cpp")
    """Peers to compare with; one that is not installed is named and left out. llama.cpp (llama-cpp-python)
    writes one text at a time; where ours is in bfloat16 it is in float16, its fastest precision, and for int8
    and int4 in q8_0 and q4_0, with the same values. transformers takes no part in int8 and int4, nor in
    bfloat16 where the processor has no instructions for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchInferConfig(Section):
    """benchmarking.bench_infer_latency."""

    bench: BenchSection = field(default_factory=BenchSection)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(vocab_size=10000))
    larger: ModelConfig = field(default_factory=lambda: ModelConfig(vocab_size=10000))
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def conflicts(self) -> Iterator[Problem]:
        """Yield texts longer than the context, beyond which contestants behave differently."""
        context_length = min(shape.context_length for shape in self.shapes())
        room = context_length - self.bench.prompt_length
        if self.bench.max_new_tokens > room:
            what = (
                f"expected at most {room} (context_length - prompt_length), got {self.bench.max_new_tokens}"
            )
            yield Problem(Key("bench", "max_new_tokens"), what)
        if self.bench.long_prompt_length >= context_length:
            what = f"expected less than context_length, got {self.bench.long_prompt_length}"
            yield Problem(Key("bench", "long_prompt_length"), what)

    def shapes(self) -> list[ModelConfig]:
        """Return the models of [bench].sizes."""
        return [self.model if size == "model" else self.larger for size in self.bench.sizes]


@dataclass(frozen=True)
class Work:
    """A work that all contestants do."""

    name: str
    prompts: Prompts
    num_tokens: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    command = Command(BenchInferConfig, bench, description="Measure tokens per second of generation.")
    return run_command(command, argv)


def bench(config: BenchInferConfig) -> int:
    """Run every model, precision and work, all contestants in turn."""
    peers = installed(config.bench.peers)
    for shape in config.shapes():
        for dtype in config.bench.dtypes:
            bench_precision(dataclasses.replace(config, model=shape), dtype, peers)
    return 0


def bench_precision(config: BenchInferConfig, dtype: str, peers: list[str]) -> None:
    """Run every work in one precision, and log the results."""
    from transformerlm.logging import ConsoleLogger
    from transformerlm.nn import num_parameters
    from transformerlm.runtime import prepare_process

    logger, chosen = ConsoleLogger(), in_precision(config.runtime, dtype)
    is_slow = dtype == "bfloat16" and not has_bfloat16(config.runtime.device)
    if is_slow and "transformers" in peers:
        say(f"transformers: {NO_BFLOAT16}")
    if is_slow or dtype in BYTES_PER_WEIGHT:
        peers = [name for name in peers if name != "transformers"]
    runtime = prepare_process(chosen)
    rate = bytes_per_second(runtime)
    about: dict[str, float | int | str] = {
        "bench.parameters": num_parameters(config.model),
        "bench.weights": dtype,
        "bench.device": str(runtime),
    }
    with tempfile.TemporaryDirectory() as folder, Contestants(say) as contestants:
        race = Race(config, chosen, Path(folder), [OURS, *peers], contestants)
        size = BYTES_PER_WEIGHT.get(dtype, runtime.dtype.itemsize)
        for values in race.records(size * weights_read_a_step(config.model) / rate):
            logger.log({**values, **about})


def in_precision(runtime: RuntimeConfig, name: str) -> RuntimeConfig:
    """Return [runtime] for a precision of [bench].dtypes."""
    if name in BYTES_PER_WEIGHT:
        return dataclasses.replace(runtime, dtype="float32", weights=cast(Any, name))
    return dataclasses.replace(runtime, dtype=cast(Any, name))


def say(line: str) -> None:
    """Print a message for a person."""
    print(line, file=sys.stderr)


def installed(peers: Sequence[str]) -> list[str]:
    """Return the peers that can be imported; the others are named."""
    found = []
    for peer in peers:
        missing = [module for module in MODULES[peer] if importlib.util.find_spec(module) is None]
        for module in missing:
            say(f"{module} is not installed: {peer} is left out")
        found += [] if missing else [peer]
    return found


@dataclass(frozen=True)
class Race:
    """All works in one precision."""

    config: BenchInferConfig
    runtime: RuntimeConfig
    folder: Path
    names: list[str]
    contestants: Contestants

    def records(self, seconds_to_read_weights: float) -> Iterator[dict[str, float | int | str]]:
        """Run the works; yield one record for each contestant in each."""
        alone: float | None = None
        for work in works(self.config):
            first, whole = self.run(work)
            for name in whole:
                values = results(name, first, whole, work)
                if name == OURS:
                    alone = alone or float(values[names.TOKENS_PER_SECOND])
                    values["bench.times_our_first_work"] = float(values[names.TOKENS_PER_SECOND]) / alone
                if work.num_tokens > 1:
                    seconds = float(values["bench.ms_per_step"]) / 1000
                    values["bench.share_of_bandwidth"] = seconds_to_read_weights / seconds
                yield {"bench.work": work.name, "bench.contestant": name, **values}

    def run(self, work: Work) -> tuple[dict[str, Outcome], dict[str, Outcome]]:
        """Measure the first token alone, and the whole text."""
        bench = self.config.bench
        # llama.cpp writes one text at a time.
        entrants = [name for name in self.names if name != LLAMA_CPP or len(work.prompts) == 1]
        outcomes = []
        for make in (first_token, whole_text)[: 1 if work.num_tokens == 1 else 2]:
            tasks = {
                name: Task(functools.partial(make, self.job(name, work)), nothing, bench.time_limit_seconds)
                for name in entrants
            }
            outcomes.append(
                self.contestants.race(
                    work.name, tasks, warmup_rounds=bench.warmup_rounds, rounds=bench.rounds
                )
            )
        return outcomes[0], outcomes[-1]

    def job(self, name: str, work: Work) -> Job:
        """Return the job of a contestant."""
        bench = self.config.bench
        return Job(
            contestant=name,
            model=self.config.model,
            runtime=self.runtime,
            prompts=work.prompts,
            num_tokens=work.num_tokens,
            temperature=bench.temperature,
            top_p=bench.top_p,
            folder=self.folder,
        )


def works(config: BenchInferConfig) -> list[Work]:
    """Return all works in order; the others are compared with the first."""
    import torch

    bench, model = config.bench, config.model

    def prompts(lengths: Sequence[int]) -> Prompts:
        return [torch.randint(model.vocabulary_rows, (length,)).tolist() for length in lengths]

    found = [
        Work(f"{size} x {bench.prompt_length}", prompts([bench.prompt_length] * size), bench.max_new_tokens)
        for size in bench.batch_sizes
    ]
    found.append(
        Work(f"first token after {bench.long_prompt_length}", prompts([bench.long_prompt_length]), 1)
    )
    if bench.num_different:
        longest = model.context_length - bench.max_new_tokens
        lengths = [
            1 + (longest - 1) * i // max(1, bench.num_different - 1) for i in range(bench.num_different)
        ]
        name = f"{bench.num_different} of 1 to {longest}"
        found.append(Work(name, prompts(lengths[::2] + lengths[1::2]), bench.max_new_tokens))
    return found


def results(
    name: str, first: dict[str, Outcome], whole: dict[str, Outcome], work: Work
) -> dict[str, float | int | str]:
    """Return the medians of one contestant, and the ratios to ours."""
    seconds, to_first = whole[name].median, first[name].median
    values: dict[str, float | int | str] = {
        "bench.batch_size": len(work.prompts),
        names.TOKENS_PER_SECOND: len(work.prompts) * work.num_tokens / seconds,
        names.LATENCY_MS: 1000 * seconds,
        names.FIRST_TOKEN_MS: 1000 * to_first,
        "bench.ms_per_step": 1000 * (seconds - to_first) / max(1, work.num_tokens - 1),
        "bench.fastest_seconds": min(whole[name].seconds),
        "bench.slowest_seconds": max(whole[name].seconds),
    }
    if OURS in whole:
        values["bench.times_slower_than_ours"] = whole[name].times_slower_than(whole[OURS])
        values["bench.first_token_times_slower"] = first[name].times_slower_than(first[OURS])
    return values


def bytes_per_second(runtime: Runtime) -> float:
    """Return the memory bandwidth of the device in bytes per second: the best of some sums over 512 MB."""
    import torch

    numbers = torch.ones(2**27, dtype=torch.float32, device=runtime.device)

    def seconds() -> float:
        runtime.synchronize()
        start = time.perf_counter()
        numbers.sum()
        runtime.synchronize()
        return time.perf_counter() - start

    return numbers.nbytes / min(seconds() for _ in range(8))


def weights_read_a_step(shape: ModelConfig) -> int:
    """Return the weights read per token: every one once, but one row of an embedding that is not tied."""
    from transformerlm.nn import num_parameters

    unread = 0 if shape.tie_embeddings else shape.vocabulary_rows * shape.d_model
    return num_parameters(shape) - unread


if __name__ == "__main__":
    sys.exit(main())
