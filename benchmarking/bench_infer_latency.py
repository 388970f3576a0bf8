"""Generation speed: ours beside Hugging Face's `generate`, and llama.cpp, on a Llama of the same shape.

    python -m benchmarking.bench_infer_latency --config configs/bench_infer.toml

Weights and prompts are random: what is measured is the machine's work, not the text. For each precision
and each work all contestants generate in the same process, in turn, and the medians are compared: with so
many texts side by side; with one long prompt, whose first token is waited for; and with many prompts of very
different lengths. Each step reads every weight once at least: the share of the memory's own rate, measured
here too, says how far that is from the machine's limit.

Results are JSON lines on stdout; but for a temporary one, no file is written.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarking.peers import gguf_of, hugging_face_llama
from transformerlm.cli.command import run_command
from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.logging import names
from transformerlm.schema import NonNegativeFloat, NonNegativeInt, PositiveInt, Probability, Problem, Section

if TYPE_CHECKING:
    from transformerlm.nn import TransformerLM
    from transformerlm.runtime import Runtime

OURS, LLAMA_CPP = "transformerlm", "llama.cpp"


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
    long_prompt_length: PositiveInt = 200
    """Tokens of the prompt whose first token is waited for."""
    num_different: NonNegativeInt = 64
    """Prompts of very different lengths, from 1 to what fits the context with max_new_tokens; 0: none."""
    temperature: NonNegativeFloat = 1.0
    """0: greedy."""
    top_p: Probability = 0.9
    """Nucleus probability."""
    warmup_rounds: NonNegativeInt = 1
    """Rounds that are not counted."""
    rounds: PositiveInt = 5
    """Rounds that are; in each, every contestant generates once."""
    peers: tuple[Literal["transformers", "llama.cpp"], ...] = ("transformers", "llama.cpp")
    """What to compare with; one that is not installed is said and left out. llama.cpp (llama-cpp-python)
    writes one text at a time; where ours is in bfloat16 it is in float16, which it is quickest in."""


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
        if self.bench.long_prompt_length >= self.model.context_length:
            what = f"expected less than context_length, got {self.bench.long_prompt_length}"
            yield Problem(("bench", "long_prompt_length"), what)


Prompts = list[list[int]]
Contestant = Callable[[Prompts, int], object]
"""Writes so many tokens after each prompt."""


@dataclass(frozen=True)
class Work:
    """What all contestants do."""

    name: str
    prompts: Prompts
    num_tokens: int


class Seconds:
    """What one contestant took, a number per counted round."""

    def __init__(self) -> None:
        self.first_token: list[float] = []
        self.all_tokens: list[float] = []


def main() -> int:
    """The command."""
    return run_command(BenchInferConfig, bench, description="Measure tokens per second of generation.")


def bench(config: BenchInferConfig) -> int:
    """Every precision and work, all contestants in turn."""
    from transformerlm.logging import ConsoleLogger
    from transformerlm.runtime import prepare_process

    logger = ConsoleLogger()
    for dtype in config.bench.dtypes:
        runtime = prepare_process(dataclasses.replace(config.runtime, dtype=dtype))
        rate = bytes_per_second(runtime)
        with tempfile.TemporaryDirectory() as folder:
            contestants = all_contestants(config, runtime, Path(folder))
            alone: float | None = None
            for work in works(config):
                entrants = {
                    name: contestant
                    for name, contestant in contestants.items()
                    if name != LLAMA_CPP or len(work.prompts) == 1
                }
                measured = alternate(entrants, work, config.bench, runtime)
                for name, seconds in measured.items():
                    values = results(seconds, measured[OURS], work)
                    if name == OURS:
                        alone = alone or float(values[names.TOKENS_PER_SECOND])
                        values["bench.times_our_first_work"] = float(values[names.TOKENS_PER_SECOND]) / alone
                    if work.num_tokens > 1:
                        seconds_a_step = bytes_read_a_step(config.model, runtime) / rate
                        share = 1000 * seconds_a_step / float(values["bench.ms_per_step"])
                        values["bench.share_of_bandwidth"] = share
                    head = {"bench.work": work.name, "bench.contestant": name, "bench.device": str(runtime)}
                    logger.log(head | values)
    return 0


def works(config: BenchInferConfig) -> list[Work]:
    """In the order in which they are done; the first is what others are compared with."""
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


def results(seconds: Seconds, ours: Seconds, work: Work) -> dict[str, float | int | str]:
    """Medians of one contestant, and the ratio to ours."""
    whole, first = statistics.median(seconds.all_tokens), statistics.median(seconds.first_token)
    return {
        "bench.batch_size": len(work.prompts),
        names.TOKENS_PER_SECOND: len(work.prompts) * work.num_tokens / whole,
        names.LATENCY_MS: 1000 * whole,
        names.FIRST_TOKEN_MS: 1000 * first,
        "bench.ms_per_step": 1000 * (whole - first) / max(1, work.num_tokens - 1),
        "bench.fastest_seconds": min(seconds.all_tokens),
        "bench.slowest_seconds": max(seconds.all_tokens),
        "bench.times_slower_than_ours": whole / statistics.median(ours.all_tokens),
        "bench.first_token_times_slower": first / statistics.median(ours.first_token),
    }


def alternate(
    contestants: dict[str, Contestant], work: Work, bench: BenchSection, runtime: Runtime
) -> dict[str, Seconds]:
    """The counted rounds of every contestant, run in turn."""
    measured = {name: Seconds() for name in contestants}
    for number in range(bench.warmup_rounds + bench.rounds):
        for name, contestant in contestants.items():
            first = timed(contestant, work.prompts, 1, runtime)
            whole = (
                first if work.num_tokens == 1 else timed(contestant, work.prompts, work.num_tokens, runtime)
            )
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


def bytes_per_second(runtime: Runtime) -> float:
    """What the device reads from its memory in a second: the best of some sums over 512 MB."""
    import torch

    numbers = torch.ones(2**27, device=runtime.device)
    fastest = min(timed(lambda *_: numbers.sum(), [], 0, runtime) for _ in range(8))
    return numbers.nbytes / fastest


def bytes_read_a_step(shape: ModelConfig, runtime: Runtime) -> int:
    """Every weight once, but for an embedding that is not the head too, of which a row is read."""
    from transformerlm.nn import num_parameters

    unread = 0 if shape.tie_embeddings else shape.vocabulary_rows * shape.d_model
    return (num_parameters(shape) - unread) * runtime.dtype.itemsize


def all_contestants(config: BenchInferConfig, runtime: Runtime, folder: Path) -> dict[str, Contestant]:
    """Those that are asked for and installed, all with the same weights where that is simple."""
    from transformerlm.nn import TransformerLM

    attention = config.runtime.attention
    model = TransformerLM(config.model, backend=attention, device=runtime.device, dtype=runtime.dtype)
    contestants = {OURS: ours(model, config)}
    if "transformers" in config.bench.peers and (peer := hugging_face(config, runtime)):
        contestants["transformers"] = peer
    if LLAMA_CPP in config.bench.peers and (peer := llama_cpp(model, config, runtime, folder)):
        contestants[LLAMA_CPP] = peer
    return contestants


def ours(model: TransformerLM, config: BenchInferConfig) -> Contestant:
    """This package's model and `generate`."""
    from transformerlm.infer import generate

    bench = config.bench

    def contestant(prompts: Prompts, num_tokens: int) -> None:
        generate(
            model,
            prompts,
            max_new_tokens=num_tokens,
            temperature=bench.temperature,
            top_p=bench.top_p,
            kernels=config.runtime.kernels,
        )

    return contestant


def hugging_face(config: BenchInferConfig, runtime: Runtime) -> Contestant | None:
    """transformers' LlamaForCausalLM of the same shape, and its own `generate`, padded on the left."""
    import torch

    model, bench = hugging_face_llama(config.model), config.bench
    if model is None:
        return None
    model.to(runtime.device, runtime.dtype).eval()
    how = {"do_sample": True, "temperature": bench.temperature, "top_p": bench.top_p, "top_k": 0}
    options = how if bench.temperature else {"do_sample": False}

    def contestant(prompts: Prompts, num_tokens: int) -> None:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        written = model.generate(
            ids.to(runtime.device),
            attention_mask=mask.to(runtime.device),
            max_new_tokens=num_tokens,
            **options,
        )
        assert written.shape[1] == ids.shape[1] + num_tokens

    return contestant


def llama_cpp(
    model: TransformerLM, config: BenchInferConfig, runtime: Runtime, folder: Path
) -> Contestant | None:
    """llama.cpp on our weights, from a GGUF file that is written for it; one text at a time."""
    import torch

    path = gguf_of(model, "float32" if runtime.dtype == torch.float32 else "float16", folder)
    if path is None:
        return None
    from llama_cpp import Llama

    threads, bench = torch.get_num_threads(), config.bench
    llama: Any = Llama(
        str(path),
        n_ctx=config.model.context_length,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )
    how = {"temp": bench.temperature, "top_p": bench.top_p, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}

    def contestant(prompts: Prompts, num_tokens: int) -> None:
        (prompt,) = prompts
        llama.reset()
        written = itertools.islice(llama.generate(prompt, **how), num_tokens)
        assert sum(1 for _ in written) == num_tokens

    return contestant


if __name__ == "__main__":
    sys.exit(main())
