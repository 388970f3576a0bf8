"""Generation speed: ours beside Hugging Face's `generate` on a Llama of the same shape.

    python -m benchmarking.bench_infer_latency --config configs/bench_infer.toml

Weights and prompts are random: what is measured is the machine's work, not the text. For each precision
and batch size all contestants generate in the same process, in turn, and the medians are compared.
Results are JSON lines on stdout; no file is written.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from benchmarking.peers import hugging_face_llama
from transformerlm.cli.common import run_command
from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.schema import NonNegativeFloat, NonNegativeInt, PositiveInt, Probability, Problem, Section

if TYPE_CHECKING:
    from transformerlm.runtime import Runtime


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSection(Section):
    """[bench]: how much to generate, and how often."""

    batch_sizes: tuple[PositiveInt, ...] = (1, 8)
    """Texts side by side."""
    dtypes: tuple[Literal["float32", "bfloat16", "float16"], ...] = ("float32", "bfloat16")
    """Precisions of weights, cache and products; they take the place of [runtime].dtype."""
    prompt_length: PositiveInt = 16
    """Tokens of each prompt."""
    max_new_tokens: PositiveInt = 200
    """Tokens written after each."""
    temperature: NonNegativeFloat = 1.0
    """0: greedy."""
    top_p: Probability = 0.9
    """Nucleus probability."""
    warmup_rounds: NonNegativeInt = 1
    """Rounds that are not counted."""
    rounds: PositiveInt = 5
    """Rounds that are; in each, every contestant generates once."""
    peers: tuple[Literal["transformers"], ...] = ("transformers",)
    """What to compare with; one that is not installed is said and left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchInferConfig(Section):
    """benchmarking.bench_infer_latency."""

    bench: BenchSection = field(default_factory=BenchSection)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(vocab_size=10000))
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def conflicts(self) -> Iterator[Problem]:
        """The texts have to fit the context: what happens past it differs between contestants."""
        room = self.model.context_length - self.bench.prompt_length
        if self.bench.max_new_tokens > room:
            what = (
                f"expected at most {room} (context_length - prompt_length), got {self.bench.max_new_tokens}"
            )
            yield Problem(("bench", "max_new_tokens"), what)


Prompts = list[list[int]]
Contestant = Callable[[Prompts, int], object]
"""Writes so many tokens after each prompt."""


class Seconds:
    """What one contestant took, a number per counted round."""

    def __init__(self) -> None:
        self.first_token: list[float] = []
        self.all_tokens: list[float] = []


def main() -> int:
    """The command."""
    return run_command(BenchInferConfig, bench, description="Measure tokens per second of generation.")


def bench(config: BenchInferConfig) -> int:
    """Every precision and batch size, all contestants in turn."""
    from transformerlm.logging import ConsoleLogger
    from transformerlm.runtime import Runtime

    logger = ConsoleLogger()
    for dtype in config.bench.dtypes:
        runtime = Runtime.from_config(dataclasses.replace(config.runtime, dtype=dtype))
        contestants: dict[str, Contestant] = {"transformerlm": ours(config, runtime)}
        if "transformers" in config.bench.peers and (peer := hugging_face(config, runtime)):
            contestants["transformers"] = peer
        for batch_size in config.bench.batch_sizes:
            measured = alternate(contestants, random_prompts(config, batch_size), config.bench, runtime)
            for name, seconds in measured.items():
                values = results(seconds, measured["transformerlm"], config, batch_size)
                logger.log({"bench.contestant": name, "bench.device": str(runtime), **values})
    return 0


def results(
    seconds: Seconds, ours: Seconds, config: BenchInferConfig, batch_size: int
) -> dict[str, float | int | str]:
    """Medians of one contestant, and the ratio to ours."""
    from transformerlm.logging import names

    num_tokens = config.bench.max_new_tokens
    whole, first = statistics.median(seconds.all_tokens), statistics.median(seconds.first_token)
    return {
        "bench.batch_size": batch_size,
        names.TOKENS_PER_SECOND: batch_size * num_tokens / whole,
        names.LATENCY_MS: 1000 * whole,
        names.FIRST_TOKEN_MS: 1000 * first,
        "bench.ms_per_step": 1000 * (whole - first) / max(1, num_tokens - 1),
        "bench.fastest_seconds": min(seconds.all_tokens),
        "bench.slowest_seconds": max(seconds.all_tokens),
        "bench.times_slower_than_ours": whole / statistics.median(ours.all_tokens),
        "bench.first_token_times_slower": first / statistics.median(ours.first_token),
    }


def alternate(
    contestants: dict[str, Contestant], prompts: Prompts, bench: BenchSection, runtime: Runtime
) -> dict[str, Seconds]:
    """The counted rounds of every contestant, run in turn."""
    measured = {name: Seconds() for name in contestants}
    for number in range(bench.warmup_rounds + bench.rounds):
        for name, contestant in contestants.items():
            first = timed(contestant, prompts, 1, runtime)
            whole = timed(contestant, prompts, bench.max_new_tokens, runtime)
            if number >= bench.warmup_rounds:
                measured[name].first_token.append(first)
                measured[name].all_tokens.append(whole)
    return measured


def timed(contestant: Contestant, prompts: Prompts, num_tokens: int, runtime: Runtime) -> float:
    """Seconds of one call."""
    runtime.synchronize()
    start = time.perf_counter()
    contestant(prompts, num_tokens)
    runtime.synchronize()
    return time.perf_counter() - start


def random_prompts(config: BenchInferConfig, batch_size: int) -> Prompts:
    """Prompts of [bench].prompt_length random ids."""
    import torch

    shape = (batch_size, config.bench.prompt_length)
    prompts: Prompts = torch.randint(config.model.vocabulary_rows, shape).tolist()
    return prompts


def ours(config: BenchInferConfig, runtime: Runtime) -> Contestant:
    """This package's model and `generate`."""
    from transformerlm.infer import generate
    from transformerlm.nn import TransformerLM

    attention, bench = config.runtime.attention, config.bench
    model = TransformerLM(config.model, backend=attention, device=runtime.device, dtype=runtime.dtype)

    def contestant(prompts: Prompts, num_tokens: int) -> None:
        generate(model, prompts, max_new_tokens=num_tokens, temperature=bench.temperature, top_p=bench.top_p)

    return contestant


def hugging_face(config: BenchInferConfig, runtime: Runtime) -> Contestant | None:
    """transformers' LlamaForCausalLM of the same shape, and its own `generate`."""
    import torch

    model, bench = hugging_face_llama(config.model), config.bench
    if model is None:
        return None
    model.to(runtime.device, runtime.dtype).eval()
    how = {"do_sample": True, "temperature": bench.temperature, "top_p": bench.top_p, "top_k": 0}
    options = how if bench.temperature else {"do_sample": False}

    def contestant(prompts: Prompts, num_tokens: int) -> None:
        ids = torch.tensor(prompts, device=runtime.device)
        written = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, **options
        )
        assert written.shape[1] == ids.shape[1] + num_tokens

    return contestant


if __name__ == "__main__":
    sys.exit(main())
