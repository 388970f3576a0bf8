"""Everything that needs a GPU, in one command: tests, training, generation, memory, beside the peers.

    python -m benchmarking.bench_gpu --config configs/bench_gpu.toml

Offline, and nothing is installed. Each part (gpu_parts.py) has a process and a time limit of its own; one
that fails says so, and the others run. The table comes last. Without a GPU all of it runs on the CPU, with
tiny sizes, which shows that the script works and nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarking.gpu_job import Job, Numbers
from benchmarking.gpu_parts import beside, parts
from transformerlm.cli.command import Command, run_command
from transformerlm.config import ModelConfig
from transformerlm.schema import PositiveFloat, PositiveInt, Section, Text, to_dict

ROOT = Path(__file__).parents[1]
WIDTH = 110
"""Characters of a line of the table; what is longer is whole in the lines before it, on stderr."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSection(Section):
    """[bench]: sizes and time limits."""

    total_seconds: PositiveFloat = 480.0
    """Time for all parts; those for which none is left are named."""
    part_seconds: PositiveFloat = 150.0
    """Time limit of a part."""
    measured_seconds: PositiveFloat = 5.0
    """Duration of a measurement."""
    batch_size: PositiveInt = 32
    """Sequences per step."""
    micro_batch_size: PositiveInt = 16
    """Sequences at a time."""
    generation_batch_sizes: tuple[PositiveInt, ...] = (1, 8, 64)
    """Texts that are written together."""
    new_tokens: PositiveInt = 256
    """Tokens written of each."""
    nanogpt_dir: Text | None = None
    """A checkout of nanoGPT. None: without it."""
    parts: tuple[Text, ...] = ()
    """Names of the parts to run, or beginnings of them; none: all. "machine" is always run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchGpuConfig(Section):
    """benchmarking.bench_gpu."""

    bench: BenchSection = field(default_factory=BenchSection)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(vocab_size=50304))
    """On a GPU."""
    tiny: ModelConfig = field(default_factory=lambda: ModelConfig(vocab_size=256))
    """Where there is none."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    command = Command(BenchGpuConfig, bench, description="Measure everything that needs a GPU, in minutes.")
    return run_command(command, argv)


def bench(config: BenchGpuConfig) -> int:
    """Run all parts and print the table; return 0 if none has failed, else 1."""
    job, section = make_job(config), config.bench
    names = [
        name
        for name in parts(job, section.generation_batch_sizes)
        if not section.parts or name.startswith(("machine", *section.parts))
    ]
    end, found = time.monotonic() + section.total_seconds, dict[str, Numbers]()
    for name in names:
        start = time.monotonic()
        limit = min(section.part_seconds, end - start)
        found[name] = run_part(job, name, section, limit) if limit > 1 else {"left_out": "no time left"}
        seconds = time.monotonic() - start
        print(f"{name}: {seconds:.0f} s: {json.dumps(found[name])}", file=sys.stderr, flush=True)
    print("\n".join(table(found)))
    return int(any("failed" in numbers for numbers in found.values()))


def make_job(config: BenchGpuConfig) -> Job:
    """Return the sizes for this machine."""
    import torch

    bench, is_gpu = config.bench, torch.cuda.is_available()
    return Job(
        model=to_dict(config.model if is_gpu else config.tiny),
        device="cuda" if is_gpu else "cpu",
        dtype="bfloat16" if is_gpu and torch.cuda.is_bf16_supported() else "float32",
        batch_size=bench.batch_size if is_gpu else 4,
        micro_batch_size=bench.micro_batch_size if is_gpu else 2,
        seconds=bench.measured_seconds if is_gpu else 0.01,
        new_tokens=bench.new_tokens if is_gpu else 8,
        nanogpt_dir=bench.nanogpt_dir,
    )


def run_part(job: Job, name: str, section: BenchSection, limit: float) -> Numbers:
    """Run a part in a process of its own; return its numbers, or "failed" with the reason."""
    sizes = json.dumps(section.generation_batch_sizes)
    command = [sys.executable, "-m", "benchmarking.gpu_parts", name, json.dumps(asdict(job)), sizes]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **offline},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, said = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {limit:.0f} seconds"}
    finally:
        if process.poll() is None:  # with what it has started, also at Ctrl-C
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        return {"failed": (said.strip().splitlines() or [f"status {process.returncode}"])[-1][:150]}
    numbers: Numbers = json.loads(printed.strip().splitlines()[-1])
    return numbers


def table(found: dict[str, Numbers]) -> list[str]:
    """Return the lines of the table: the machine; part, speed, share of the ceiling, memory, words."""
    rows = [("part", "tokens/s", "of ceiling", "memory", "")]
    rows += [row(name, found) for name in found if name != "machine"]
    widths = [max(len(cells[column]) for cells in rows) for column in range(4)]
    lines = [machine_line(found["machine"])]
    for first, *others, words in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells, words]).rstrip())
    return [line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..." for line in lines]


def machine_line(numbers: Numbers) -> str:
    """Return the machine with its ceilings, or why these are not known."""
    if "flops" not in numbers:
        return f"machine: {numbers}"
    flops, rate = float(numbers["flops"]) / 1e12, float(numbers["bytes_per_second"]) / 1e9
    return f"{numbers['device']}, torch {numbers['torch']}: {flops:.3g} TFLOP/s, {rate:,.0f} GB/s"


def row(name: str, found: dict[str, Numbers]) -> tuple[str, str, str, str, str]:
    """Return the cells of a part."""
    numbers, ceiling = found[name], found["machine"]

    def number(key: str, of: Numbers = numbers) -> float:
        return float(of.get(key, 0.0))

    speed = f"{number('tokens_per_second'):,.0f}" if "tokens_per_second" in numbers else ""
    key = next((key for key in ("flops", "bytes_per_second") if key in numbers and key in ceiling), None)
    share = f"{number(key) / number(key, ceiling):.0%}" if key else ""
    memory = f"{number('peak_bytes') / 2**30:.1f} GiB" if "peak_bytes" in numbers else ""
    words = [f"FAILED: {numbers['failed']}"] if "failed" in numbers else []
    words += [f"left out: {numbers['left_out']}"] if "left_out" in numbers else []
    words += [str(numbers["said"])] if "said" in numbers else []
    words += [f"first step {number('first_step_seconds'):.0f} s"] if number("first_step_seconds") >= 1 else []
    words += [f"loss scale {number('loss_scale'):g}"] if "loss_scale" in numbers else []
    words += [f"steps {number('gain'):+.1%} faster with it"] if "gain" in numbers else []
    other = found.get(beside(name), {}) if beside(name) != name else {}
    if speed and "tokens_per_second" in other:
        ratio = number("tokens_per_second", other) / number("tokens_per_second")
        words.append(f'"{beside(name)}" is {ratio:.2f} x as fast')
    return name, speed, share, memory, ", ".join(words)


if __name__ == "__main__":
    sys.exit(main())
