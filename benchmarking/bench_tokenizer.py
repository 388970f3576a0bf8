"""Tokenizer speed: ours beside Hugging Face's tokenizers, tiktoken, rustbpe and gigatoken.

    python -m benchmarking.bench_tokenizer --config configs/bench_tokenizer.toml

All contestants do the same work on the same text, each in a process of its own, in turn, and the medians
are compared. Results are JSON lines on stdout, and tables in Markdown on stderr at the end. What is written
meanwhile is in a temporary folder.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarking.corpora import Corpus, gather, identical_letters, outside_path, random_letters, write
from benchmarking.pattern_families import FAMILIES, IN_ONE_PATTERN
from benchmarking.timing import Contestants, Outcome, Task
from benchmarking.tokenizer_jobs import Job, make_vocabulary
from benchmarking.tokenizer_report import Result, Results, record, report
from benchmarking.tokenizer_works import OURS, WORKS, package_of, task
from transformerlm.cli.command import Command, run_command
from transformerlm.errors import DataError, Key
from transformerlm.limits import available_cores
from transformerlm.logging import ConsoleLogger, say
from transformerlm.schema import NonNegativeInt, PositiveFloat, PositiveInt, Problem, Section, Text

TEN_WORDS = "The quick brown fox jumps over the lazy dog again"
VOCABULARY_BYTES = 4_000_000
"""Bytes of the first corpus on which a vocabulary is trained, if none is given."""
MAX_CORES_OF_ONE_THREAD = 1.3
"""Upper limit of processor time over wall time, as measured for the shortest works on one thread."""

WorkName = Literal[
    "train",
    "train_memory",
    "encode_array",
    "encode_list",
    "encode_batch",
    "decode_bytes",
    "decode_text",
    "decode_batch",
    "make_data",
    "encode_short",
    "encode_letters",
]
Peer = Literal["tokenizers", "tiktoken", "rustbpe", "gigatoken"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSection(Section):
    """[bench]: what to measure, on what, and how often."""

    corpora: tuple[Text, ...] = ("python-machine",)
    """Files, folders, or "python-machine": the Python source of the standard library, then of this
    environment's packages, each file once. {test_data}: the folder that TRANSFORMERLM_TEST_DATA names."""
    extra_source_dirs: tuple[Text, ...] = ()
    """Further folders for "python-machine", used if that is not enough."""
    max_megabytes: PositiveFloat = 100.0
    """Megabytes of each corpus to use, from its beginning."""
    huggingface_megabytes: PositiveFloat = 4.0
    """Megabytes of each corpus for Hugging Face's encoder and decoder, which are slow."""
    document_kilobytes: PositiveInt = 64
    """Approximate size of a document of a batch, which ends at a line end."""
    letters_megabytes: tuple[PositiveFloat, ...] = (1.0, 10.0)
    """Lengths of the long words: one of a single letter, one of random letters."""
    work: tuple[WorkName, ...] = (
        "train",
        "train_memory",
        "encode_array",
        "encode_list",
        "encode_batch",
        "decode_bytes",
        "decode_text",
        "decode_batch",
        "make_data",
        "encode_short",
        "encode_letters",
    )
    """Works to measure. "train_memory" is one more training, in a fresh process."""
    families: tuple[Text, ...] = ()
    """Families of tokenizers, besides GPT-2, that are measured too, each with a vocabulary that is
    trained on the first corpus: keys of `pattern_families.FAMILIES`."""
    family_works: tuple[WorkName, ...] = ("train", "encode_array", "encode_batch", "decode_bytes")
    """Works that are measured for them."""
    train_vocab_size: PositiveInt = 10000
    """Ids that training learns."""
    num_workers: PositiveInt | None = None
    """Threads or processes of training, batches and data building; all else has one. None: one per core."""
    vocab_path: Text | None = None
    """vocab.json of the tokenizer that encodes and decodes. None: one that is trained on the first corpus."""
    merges_path: Text | None = None
    """merges.txt that belongs to it."""
    warmup_rounds: NonNegativeInt = 1
    """Rounds that are not counted."""
    rounds: PositiveInt = 5
    """Measured rounds; in each, every contestant works once."""
    time_limit_seconds: PositiveFloat = 600.0
    """Time limit of a round; a slower contestant is named and left out."""
    letters_time_limit_seconds: PositiveFloat = 20.0
    """The time limit for long words, on which some contestants are quadratic."""
    peers: tuple[Peer, ...] = ("tokenizers", "tiktoken", "rustbpe", "gigatoken")
    """Peers to compare with; one that is not installed is named and left out."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield a vocab.json without merges.txt, or the reverse."""
        if (self.vocab_path is None) != (self.merges_path is None):
            yield Problem(Key("merges_path"), "expected both vocab_path and merges_path, or neither")
        for family in self.families:
            if family not in FAMILIES:
                yield Problem(Key("families"), f"expected some of {', '.join(FAMILIES)}, got {family!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchTokenizerConfig(Section):
    """benchmarking.bench_tokenizer."""

    bench: BenchSection = field(default_factory=BenchSection)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    command = Command(BenchTokenizerConfig, bench, description="Measure tokenizers.")
    return run_command(command, argv)


def bench(config: BenchTokenizerConfig) -> int:
    """Run all works, on all texts, by all contestants."""
    settings = config.bench
    num_threads = settings.num_workers or available_cores()
    # Read by the Rust libraries when their threads start; what is to run on one thread is asked for so.
    os.environ.update(RAYON_NUM_THREADS=str(num_threads), TOKENIZERS_PARALLELISM="true")
    with tempfile.TemporaryDirectory(prefix="bench_tokenizer.") as directory, Contestants(say) as contestants:
        texts = texts_of(settings, Path(directory))
        meeting = Meeting(settings, num_threads, Path(directory), contestants)
        found = list(meeting.results(texts, settings.work))
        meetings = [meeting]
        for family in settings.families:
            meeting = Meeting(settings, num_threads, Path(directory), contestants, family)
            found += meeting.results(texts, settings.family_works)
            meetings.append(meeting)
    say(f"{report(Results(found), num_threads)}\n\n{conditions(settings)}")
    return 0 if all(meeting.is_complete for meeting in meetings) else 1


def conditions(settings: BenchSection) -> str:
    """Return notes on the tables."""
    return (
        f"Medians of {settings.rounds} rounds in turn, after {settings.warmup_rounds} that are not counted. "
        f"Training: {settings.train_vocab_size} ids. "
        f"Batches: documents of {settings.document_kilobytes} kB, cut at line ends. "
        f"tokenizers encodes and decodes the first {settings.huggingface_megabytes:g} MB of each corpus."
    )


class Meeting:
    """All races, and their common settings."""

    def __init__(
        self,
        settings: BenchSection,
        num_threads: int,
        directory: Path,
        contestants: Contestants,
        family: str = "gpt2",
    ) -> None:
        self.settings, self.num_threads = settings, num_threads
        self.directory, self.contestants = directory, contestants
        self.packages = {OURS, *installed(settings.peers)}
        self.family = family
        if family != "gpt2":
            self.packages -= {"gigatoken"}
        if not isinstance(IN_ONE_PATTERN.get(family, FAMILIES[family]), str):
            self.packages -= {"tiktoken", "rustbpe"}
        self.is_complete = True
        """True if this package has completed all works."""

    def results(self, texts: Mapping[str, list[Corpus]], works: Sequence[WorkName]) -> Iterator[Result]:
        """Run the races, and print each result as a record."""
        self.make_vocabulary(texts["corpora"][0])
        logger = ConsoleLogger()
        for work_name in works:
            for corpus in texts[WORKS[work_name].texts]:
                results = self.race(work_name, corpus)
                ours = next((result for result in results if result.contestant == OURS), None)
                self.is_complete &= ours is not None
                for result in results:
                    logger.log(record(result, ours))
                    if result.cores > MAX_CORES_OF_ONE_THREAD and not WORKS[work_name].is_parallel:
                        say(f"{work_name}: {result.contestant} used {result.cores:.2f} cores instead of one")
                yield from results

    def make_vocabulary(self, corpus: Corpus) -> None:
        """Make our process write the vocabulary of all contestants, and compile the kernels."""
        given = self.settings.vocab_path, self.settings.merges_path
        paths = given if self.family == "gpt2" else (None, None)
        vocab_path, merges_path = (path and outside_path(path) for path in paths)
        if vocab_path and merges_path and not (Path(vocab_path).exists() and Path(merges_path).exists()):
            say(f"{vocab_path}, {merges_path}: not found, a vocabulary is trained instead")
            vocab_path, merges_path = None, None
        job = self.job(corpus, min(corpus.num_bytes, VOCABULARY_BYTES))
        make = functools.partial(make_vocabulary, job, vocab_path, merges_path)
        making = Task(make, str, self.settings.time_limit_seconds)
        if not self.contestants.race("vocabulary", {OURS: making}):
            raise DataError("without a vocabulary there is nothing to measure")

    def race(self, work_name: WorkName, corpus: Corpus) -> list[Result]:
        """Run one work on one text."""
        names = [name for name in WORKS[work_name].contestants if package_of(name) in self.packages]
        sizes = {name: self.size(work_name, name, corpus) for name in names}
        tasks = {name: self.task(work_name, name, corpus, sizes[name]) for name in names}
        outcomes = self.outcomes(work_name, corpus, tasks)
        expected = self.expected(work_name, corpus, set(sizes.values()), outcomes)
        return [
            Result(work_name, self.name(corpus), name, sizes[name], outcome, expected.get(sizes[name]))
            for name, outcome in outcomes.items()
        ]

    def expected(
        self, work_name: WorkName, corpus: Corpus, sizes: set[int], outcomes: dict[str, Outcome]
    ) -> dict[int, str]:
        """Return the fingerprints of our results by size of the text; none if ours has failed."""
        if OURS not in outcomes:
            return {}
        expected = {corpus.num_bytes: outcomes[OURS].fingerprint}
        for size in sizes - {corpus.num_bytes}:
            ours = self.task(work_name, OURS, corpus, size)
            for outcome in self.contestants.race(corpus.name, {OURS: ours}).values():
                expected[size] = outcome.fingerprint
        return expected

    def outcomes(self, work_name: WorkName, corpus: Corpus, tasks: dict[str, Task]) -> dict[str, Outcome]:
        """Run the tasks, in turn or each alone."""
        title, settings = f"{work_name}, {self.name(corpus)}", self.settings
        if not WORKS[work_name].is_alone:
            warmup_rounds, rounds = settings.warmup_rounds, settings.rounds
            return self.contestants.race(title, tasks, warmup_rounds=warmup_rounds, rounds=rounds)
        outcomes: dict[str, Outcome] = {}
        for name in tasks:
            with Contestants(say) as alone:
                outcomes |= alone.race(title, {name: tasks[name]})
        return outcomes

    def size(self, work_name: WorkName, name: str, corpus: Corpus) -> int:
        """Return the bytes of the text that a contestant works on."""
        if WORKS[work_name].is_long and name == "tokenizers":
            return min(corpus.num_bytes, int(self.settings.huggingface_megabytes * 1e6))
        return corpus.num_bytes

    def task(self, work_name: WorkName, name: str, corpus: Corpus, num_bytes: int) -> Task:
        """Return the task of a contestant."""
        is_letters, settings = WORKS[work_name].texts == "letters", self.settings
        limit = settings.letters_time_limit_seconds if is_letters else settings.time_limit_seconds
        return task(work_name, name, self.job(corpus, num_bytes), limit)

    def name(self, corpus: Corpus) -> str:
        """Return the name of a text, with that of the family if it is another one's than GPT-2's."""
        return corpus.name if self.family == "gpt2" else f"{corpus.name}, {self.family}"

    def job(self, corpus: Corpus, num_bytes: int) -> Job:
        """Return the job of a contestant: text, sizes, vocabulary."""
        return Job(
            path=corpus.path,
            num_bytes=num_bytes,
            document_bytes=self.settings.document_kilobytes * 1000,
            vocabulary_dir=self.directory / "vocabulary" / self.family,
            vocab_size=self.settings.train_vocab_size,
            num_threads=self.num_threads,
            scratch_dir=self.directory / "scratch",
            family=self.family,
        )


def installed(peers: tuple[str, ...]) -> list[str]:
    """Return the peers that can be imported; the others are named."""
    found = [name for name in peers if importlib.util.find_spec(name)]
    for name in peers:
        if name not in found:
            say(f"{name} is not installed: left out")
    return found


def texts_of(settings: BenchSection, directory: Path) -> dict[str, list[Corpus]]:
    """Return the texts of every kind, in files."""
    max_bytes = int(settings.max_megabytes * 1e6)
    corpora = []
    for name in settings.corpora:
        corpus = gather(name, max_bytes, directory, settings.extra_source_dirs)
        if corpus.num_bytes:
            corpora.append(corpus)
            say(f"{name}: {corpus.num_bytes / 1e6:.2f} MB, up to {settings.max_megabytes:g} were asked for")
        else:
            say(f"{name}: not found or empty, left out")
    if not corpora:
        raise DataError(f"expected texts to measure on, got none of {', '.join(settings.corpora)}")
    words = write("ten words", [TEN_WORDS.encode()], max_bytes, directory)
    return {"corpora": corpora, "words": [words], "letters": list(endless_words(settings, directory))}


def endless_words(settings: BenchSection, directory: Path) -> Iterator[Corpus]:
    """Return words of one repeated letter and of random letters, in each length."""
    kinds = {"one letter": identical_letters, "random letters": random_letters}
    for kind, make in kinds.items():
        for megabytes in settings.letters_megabytes:
            num_bytes = max(1, int(megabytes * 1e6))
            yield write(f"{kind}, {megabytes:g} MB", [make(num_bytes)], num_bytes, directory)


if __name__ == "__main__":
    sys.exit(main())
