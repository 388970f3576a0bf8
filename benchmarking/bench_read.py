"""Reading compressed text beside the program that unpacks it: `zstd -dc FILE | wc -c`.

    python -m benchmarking.bench_read --config configs/bench_read.toml

A text is made on the spot from parts of the given one in ever new order and compressed by the real programs.
The contestants are the program alone, and of ours: unpacking; the division into chunks, which is what one
process does one after the other while workers do the rest; all documents, with their splits. Results are JSON
lines on stdout: rates in bytes of text, the share of the program's rate, and how much memory each took.
"""

from __future__ import annotations

import functools
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarking.corpora import gather
from benchmarking.timing import Contestants, Outcome, Run, Task
from transformerlm.cli.command import Command, run_command
from transformerlm.config import CorpusConfig
from transformerlm.data.documents import Chunk
from transformerlm.schema import FilePath, PositiveFloat, PositiveInt, Section, Text

PROGRAMS = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}
PART_BYTES = 2000
SEPARATOR = b"<|endoftext|>"


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSection(Section):
    """[bench]: the text, how it is compressed, and how often it is read."""

    text: FilePath = "python-machine"
    """The text that parts are taken from: a file, a folder, or "python-machine", its Python source."""
    megabytes: PositiveFloat = 1000.0
    """Size of the text that is read."""
    codecs: tuple[Literal["gz", "bz2", "xz", "zst"], ...] = ("gz", "zst")
    """Formats to compare; one whose program is missing is named and left out."""
    options: tuple[Text, ...] = ("-1",)
    """Options of the programs."""
    num_workers: PositiveInt = 2
    """Threads that read documents."""
    rounds: PositiveInt = 3
    """Number of times that each contestant reads the text, in turn."""
    time_limit_seconds: PositiveFloat = 900.0
    """Seconds after which a contestant has failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchReadConfig(Section):
    """benchmarking.bench_read."""

    bench: BenchSection = field(default_factory=BenchSection)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    command = Command(BenchReadConfig, bench, description="Measure the reading of compressed text.")
    return run_command(command, argv)


def bench(config: BenchReadConfig) -> int:
    """Run all measurements."""
    from transformerlm.logging import ConsoleLogger

    logger, wanted = ConsoleLogger(), config.bench
    say = functools.partial(print, file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder, Contestants(say) as processes:
        for codec in wanted.codecs:
            if not shutil.which(PROGRAMS[codec]):
                say(f"{codec}: {PROGRAMS[codec]} is not installed: left out")
                continue
            path = Path(folder) / f"text.txt.{codec}"
            num_bytes = write(path, wanted, codec)
            tasks = {name: task(make, path, wanted) for name, make in CONTESTANTS.items()}
            outcomes = processes.race(codec, tasks, rounds=wanted.rounds)
            found = {outcome.fingerprint for outcome in outcomes.values()}
            assert found <= {str(num_bytes)}, f"expected {num_bytes} bytes of text, got {found}"
            about = {"bench.codec": codec, "bench.file_bytes": path.stat().st_size}
            for name, outcome in outcomes.items():
                logger.log(about | measured(name, outcome, outcomes.get("program"), num_bytes))
            path.unlink()
    return 0


def measured(name: str, outcome: Outcome, program: Outcome | None, num_bytes: int) -> dict[str, str | float]:
    """Return what is logged of a contestant."""
    values: dict[str, str | float] = {
        "bench.work": name,
        "bench.text_bytes": num_bytes,
        "bench.mb_per_second": num_bytes / outcome.median / 1e6,
        "bench.cores": outcome.rounds[-1].cores,
        "bench.taken_mb": (outcome.rounds[-1].memory.peak - outcome.before.peak) / 1e6,
    }
    return values | ({"bench.share_of_program": program.median / outcome.median} if program else {})


def task(make: Callable[[Path, BenchSection], Run], path: Path, wanted: BenchSection) -> Task:
    """Return a contestant's task. All have to find the same number of bytes of text."""
    return Task(functools.partial(make, path, wanted), str, wanted.time_limit_seconds)


def write(path: Path, wanted: BenchSection, codec: str) -> int:
    """Write the compressed text; return its size before."""
    with tempfile.TemporaryDirectory() as folder:
        whole = gather(wanted.text, 20 * 10**6, Path(folder)).path.read_text()
    parts = [whole[start : start + PART_BYTES].encode() for start in range(0, len(whole), PART_BYTES)]
    num_bytes = 0
    command = [PROGRAMS[codec], *wanted.options, "-c"]
    with path.open("wb") as file, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file) as process:
        assert process.stdin
        for part in documents(parts, int(wanted.megabytes * 10**6)):
            process.stdin.write(part)
            num_bytes += len(part)
    return num_bytes


def documents(parts: list[bytes], num_bytes: int) -> Iterator[bytes]:
    """Yield so many bytes of text: each part a document, in ever new order."""
    generator = random.Random(0)
    while num_bytes > 0:
        for part in generator.sample(parts, len(parts)):
            yield part + SEPARATOR
            num_bytes -= len(part) + len(SEPARATOR)
            if num_bytes <= 0:
                return


def by_program(path: Path, wanted: BenchSection) -> Run:
    """Unpack with the program, and count."""
    command = f'{PROGRAMS[path.suffix[1:]]} -dc "$0" | wc -c'

    def run() -> int:
        return int(subprocess.run(["sh", "-c", command, path], stdout=subprocess.PIPE, check=True).stdout)

    return run


def unpacked(path: Path, wanted: BenchSection) -> Run:
    """Unpack, and count."""
    from transformerlm.data.reading.streams import blocks, open_stream

    def run() -> int:
        with open_stream(str(path), path.suffix[1:], 2**40) as stream:
            return sum(map(len, blocks(stream)))

    return run


def in_chunks(path: Path, wanted: BenchSection) -> Run:
    """Divide into chunks."""
    return lambda: sum(chunk.num_bytes for chunk in all_chunks(path, wanted))


def in_documents(path: Path, wanted: BenchSection) -> Run:
    """Read all documents, on the workers."""
    from transformerlm.parallel import ordered_map

    config = CorpusConfig(corpus=str(path))

    def run() -> int:
        chunks = all_chunks(path, wanted)
        sizes = ordered_map(functools.partial(size_of, config), chunks, wanted.num_workers, threads=True)
        return sum(sizes)

    return run


def all_chunks(path: Path, wanted: BenchSection) -> Iterator[Chunk]:
    """Return the chunks of the text."""
    from transformerlm.data.chunks import chunks_of_all
    from transformerlm.data.corpus import find_corpora
    from transformerlm.data.split import regions
    from transformerlm.tokenizer import Pretokenizer

    config = CorpusConfig(corpus=str(path), num_workers=wanted.num_workers)
    return chunks_of_all(regions(config, find_corpora(config)), config, Pretokenizer().safe_cut)


def size_of(config: CorpusConfig, chunk: Chunk) -> int:
    """Return the bytes of the documents in a chunk, each with its separator."""
    from transformerlm.data.documents import documents_of

    return sum(len(document.utf8) + len(SEPARATOR) for document in documents_of(chunk, config))


CONTESTANTS: dict[str, Callable[[Path, BenchSection], Run]] = {
    "program": by_program,
    "unpack": unpacked,
    "chunks": in_chunks,
    "documents": in_documents,
}


if __name__ == "__main__":
    sys.exit(main())
