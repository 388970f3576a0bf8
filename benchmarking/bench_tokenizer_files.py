"""Tokenizers of others: loading a `tokenizer.json`, and texts of characters, beside tokenizers.

    python -m benchmarking.bench_tokenizer_files

Both load the same file, encode the same text to the same ids and decode these, each in a process of its own,
in turn. Results are JSON lines on stdout.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarking.corpora import gather
from benchmarking.timing import Contestants, Run, Task
from benchmarking.tokenizer_files import NUM_IDS, OF_CHARACTERS, write_files
from benchmarking.tokenizer_works import of_ids, of_text
from transformerlm.cli.command import Command, run_command
from transformerlm.logging import ConsoleLogger, say
from transformerlm.schema import PositiveFloat, PositiveInt, Section, Text

OURS, PEER = "transformerlm", "tokenizers"
Work = Literal["load", "encode", "decode"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSection(Section):
    """[bench]: what to measure, and how often."""

    corpus: Text = "python-machine"
    """The text: a file, a folder, or "python-machine"."""
    megabytes: PositiveFloat = 4.0
    """Megabytes of it."""
    num_ids: PositiveInt = NUM_IDS
    """Ids of the vocabulary that is trained first; the shapes have as many of them as they have in fact."""
    rounds: PositiveInt = 7
    """Number of times that each works, in turn."""
    time_limit_seconds: PositiveFloat = 600.0
    """Time limit of a round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchTokenizerFilesConfig(Section):
    """benchmarking.bench_tokenizer_files."""

    bench: BenchSection = field(default_factory=BenchSection)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    description = "Measure the loading of tokenizers, and texts of characters."
    return run_command(Command(BenchTokenizerFilesConfig, bench, description=description), argv)


def bench(config: BenchTokenizerFilesConfig) -> int:
    """Run all works on all shapes; 1 if a contestant is missing or the two differ."""
    settings, logger, is_right = config.bench, ConsoleLogger(), True
    os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    with tempfile.TemporaryDirectory(prefix="bench_tokenizer.") as directory, Contestants(say) as both:
        paths = write_files(Path(directory), settings.num_ids)
        text = gather(settings.corpus, int(settings.megabytes * 1e6), Path(directory), ())
        for shape, path in paths.items():
            works: tuple[Work, ...] = ("load", "encode", "decode") if shape in OF_CHARACTERS else ("load",)
            for work in works:
                tasks = {
                    name: Task(
                        functools.partial(prepare, name, work, path, text.path),
                        FINGERPRINTS[work],
                        settings.time_limit_seconds,
                    )
                    for name in (OURS, PEER)
                }
                found = both.race(f"{work}, {shape}", tasks, warmup_rounds=1, rounds=settings.rounds)
                is_right &= len(found) == 2 and found[OURS].fingerprint == found[PEER].fingerprint
                for name, outcome in found.items():
                    values: dict[str, float | str] = {"bench.work": work, "bench.shape": shape}
                    values |= {"bench.contestant": name, "bench.ms": 1000 * outcome.median}
                    if work != "load":
                        values["bench.mb_per_second"] = text.num_bytes / 1e6 / outcome.median
                    if OURS in found:
                        values["bench.times_ours"] = outcome.times_slower_than(found[OURS])
                    logger.log(values)
    return 0 if is_right else 1


def prepare(name: str, work: Work, path: Path, text_path: Path) -> Run:
    """Return the work of a contestant, prepared in its process."""
    if name == OURS:
        from transformerlm.tokenizer import Tokenizer as Own

        return _prepared(Own.from_file, Own.encode_array, Own.decode, work, path, text_path)
    from tokenizers import Tokenizer as Theirs

    def load(file: Path) -> Any:
        return Theirs.from_file(str(file))

    def encode(tokenizer: Any, text: str) -> Any:
        # As a batch: faster than a single text, for which offsets are computed.
        return tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def decode(tokenizer: Any, ids: Any) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=False))

    return _prepared(load, encode, decode, work, path, text_path)


def _prepared(
    load: Callable[[Path], Any],
    encode: Callable[[Any, str], Any],
    decode: Callable[[Any, Any], str],
    work: Work,
    path: Path,
    text_path: Path,
) -> Run:
    if work == "load":
        return functools.partial(load, path)
    tokenizer, text = load(path), text_path.read_text(encoding="utf-8", errors="ignore")
    ids = encode(tokenizer, text)
    if work == "encode":
        return functools.partial(encode, tokenizer, text)
    return functools.partial(decode, tokenizer, ids)


def _of_size(tokenizer: Any) -> str:
    """Fingerprint of a tokenizer: its number of ids."""
    size = tokenizer.vocab_size if hasattr(tokenizer, "vocab_size") else tokenizer.get_vocab_size()
    return str(size)


FINGERPRINTS: dict[Work, Callable[[Any], str]] = {"load": _of_size, "encode": of_ids, "decode": of_text}


if __name__ == "__main__":
    sys.exit(main())
