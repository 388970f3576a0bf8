"""Import and export of a large model: seconds and peak of memory; transformers is the peer.

    python -m benchmarking.bench_conversion --config configs/bench_conversion.toml

A model of TinyLlama's shape (1.1 billion parameters) with random weights, as a Hugging Face folder. It is
imported, exported to a folder and to GGUF files, all with their checks, each in a process of its own, and by
transformers loaded and saved again in the same dtype. Results are JSON lines on stdout; the files, three
times the weights at most, are in a temporary folder.
"""

from __future__ import annotations

import functools
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarking.corpora import gather
from benchmarking.timing import Contestants, Outcome, Run, Task, nothing
from transformerlm.cli.command import Command, run_command
from transformerlm.config import ModelConfig
from transformerlm.logging import ConsoleLogger, say
from transformerlm.schema import PositiveFloat, PositiveInt, Section, Text

END = "<|endoftext|>"
VOCABULARY_BYTES = 20_000_000
MEBIBYTE = 2**20
GgufDtype = Literal["float32", "float16", "bfloat16", "q8_0", "q4_0"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSection(Section):
    """[bench]: what to convert, and to what."""

    gguf_dtypes: tuple[GgufDtype, ...] = ("float16", "q8_0")
    """Dtypes of the GGUF files."""
    rounds: PositiveInt = 1
    """Number of times that each work is done, in a fresh process each."""
    folder: Text | None = None
    """Folder for the files. None: the system's for temporary ones."""
    time_limit_seconds: PositiveFloat = 3600.0
    """Time limit of a work; a slower one is named and left out."""


def tiny_llama() -> ModelConfig:
    """Return the shape of TinyLlama: 1.1 billion parameters."""
    return ModelConfig(
        vocab_size=32000,
        context_length=2048,
        d_model=2048,
        num_layers=22,
        num_heads=32,
        num_kv_heads=4,
        d_ff=5632,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConversionConfig(Section):
    """benchmarking.bench_conversion."""

    bench: BenchSection = field(default_factory=BenchSection)
    model: ModelConfig = field(default_factory=tiny_llama)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    command = Command(
        BenchConversionConfig, bench, description="Measure the import and the export of a model."
    )
    return run_command(command, argv)


def bench(config: BenchConversionConfig) -> int:
    """Run all works, one after the other."""
    logger, is_complete = ConsoleLogger(), True
    with tempfile.TemporaryDirectory(prefix="bench_conversion.", dir=config.bench.folder) as directory:
        folder = Path(directory)
        works = {
            "make": functools.partial(make, config.model, folder),
            "import": functools.partial(imported, folder),
            "export hf": functools.partial(exported, folder, "hf", "float32"),
            **{
                f"export gguf {dtype}": functools.partial(exported, folder, "gguf", dtype)
                for dtype in config.bench.gguf_dtypes
            },
            "transformers": functools.partial(by_transformers, folder),
        }
        for name, work in works.items():
            for _ in range(1 if name == "make" else config.bench.rounds):
                outcome = measured(name, work, config.bench.time_limit_seconds)
                is_complete &= outcome is not None
                if outcome:
                    logger.log(record(name, outcome))
    return 0 if is_complete else 1


def measured(name: str, work: Run, time_limit: float) -> Outcome | None:
    """Do a work once, in a fresh process."""
    with Contestants(say) as alone:
        task = Task(functools.partial(prepared, work), nothing, time_limit)
        return alone.race(name, {name: task}).get(name)


def record(name: str, outcome: Outcome) -> dict[str, float | str]:
    """Return seconds and peaks of memory, that before the work included: libraries are imported by then."""
    (only,) = outcome.rounds
    return {
        "bench.work": name,
        "bench.seconds": only.seconds,
        "bench.peak_mib": only.memory.peak / MEBIBYTE,
        "bench.peak_before_mib": outcome.before.peak / MEBIBYTE,
    }


def prepared(work: Run) -> Run:
    """Import what all works need, outside the timing."""
    import transformers

    import transformerlm.conversion.convert

    _ = transformers.AutoModelForCausalLM, transformerlm.conversion.convert
    return work


def make(model: ModelConfig, folder: Path) -> None:
    """Write the Hugging Face folder with random weights."""
    import torch

    from transformerlm.config import GenerationConfig
    from transformerlm.conversion.hf_folder import write_folder
    from transformerlm.nn import TransformerLM
    from transformerlm.tokenizer import Tokenizer, train_bpe

    corpus = gather("python-machine", VOCABULARY_BYTES, folder, ())
    tokenizer = Tokenizer(*train_bpe(corpus.path, model.vocab_size or 0, [END]), [END])
    torch.manual_seed(0)
    state = TransformerLM(model).state_dict()
    (folder / "source").mkdir()
    write_folder(folder / "source", model, state, tokenizer, END, GenerationConfig())


def imported(folder: Path) -> None:
    """Import the folder, with its checks."""
    from transformerlm.conversion.convert import import_folder
    from transformerlm.progress import SilentReporter

    shutil.rmtree(folder / "run", ignore_errors=True)
    import_folder(folder / "source", folder / "run", SilentReporter())


def exported(folder: Path, to: str, dtype: str) -> None:
    """Export the imported model as the command does, with its checks, and remove what was written."""
    from transformerlm.conversion.convert import EXACT, export_folder, export_gguf
    from transformerlm.language_model import LanguageModel
    from transformerlm.progress import SilentReporter

    lm = LanguageModel.load(folder / "run", EXACT)
    if to == "gguf":
        export_gguf(lm, folder / "out.gguf", dtype, SilentReporter(), release=True)
        (folder / "out.gguf").unlink()
    else:
        export_folder(lm, folder / "out", dtype, SilentReporter(), release=True)
        shutil.rmtree(folder / "out")


def by_transformers(folder: Path) -> None:
    """Load and save the model with transformers."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "source", dtype=torch.float32)
    model.save_pretrained(folder / "theirs")
    shutil.rmtree(folder / "theirs")


if __name__ == "__main__":
    sys.exit(main())
