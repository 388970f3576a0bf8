"""Results: a record for each contestant, and tables in Markdown for `docs/performance.md`."""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from benchmarking.timing import Outcome
from benchmarking.tokenizer_peers import CONTESTANTS
from benchmarking.tokenizer_works import OURS

LARGE = 50_000_000
"""Size in bytes from which a corpus counts as large."""


@dataclass(frozen=True)
class Result:
    """Result of one contestant in one work on one text."""

    work: str
    corpus: str
    contestant: str
    num_bytes: int
    """Bytes of the text that it worked on."""
    outcome: Outcome
    expected: str | None
    """Fingerprint of our result; None if there is none."""

    @property
    def seconds(self) -> list[float]:
        """Seconds of each measured round."""
        return self.outcome.seconds

    @property
    def median(self) -> float:
        """Median of the rounds, in seconds."""
        return self.outcome.median

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.num_bytes / self.median

    @property
    def cores(self) -> float:
        """Cores in use, in the median round."""
        return statistics.median(measured.cores for measured in self.outcome.rounds)

    @property
    def is_wrong(self) -> bool:
        """True if its result differs from ours."""
        return self.expected not in (None, self.outcome.fingerprint)

    @property
    def peak(self) -> int:
        """Peak memory of its process, in bytes."""
        return self.outcome.rounds[-1].memory.peak


def record(result: Result, ours: Result | None) -> dict[str, float | str]:
    """Return a result as one flat record."""
    values: dict[str, float | str] = {
        "bench.corpus": result.corpus,
        "bench.work": result.work,
        "bench.contestant": result.contestant,
        "metrics.megabytes_per_second": result.rate / 1e6,
        "bench.megabytes": result.num_bytes / 1e6,
        "bench.seconds": result.median,
        "bench.fastest_seconds": min(result.seconds),
        "bench.slowest_seconds": max(result.seconds),
        "bench.rounds": len(result.seconds),
        "bench.cores_in_use": result.cores,
    }
    if ours:
        values["bench.times_slower_than_ours"] = ours.rate / result.rate
        values["bench.equal_to_ours"] = not result.is_wrong
    if result.work == "train_memory":
        values["bench.peak_megabytes"] = result.peak / 1e6
        values["bench.peak_megabytes_before"] = result.outcome.before.peak / 1e6
        values["bench.largest_child_megabytes"] = result.outcome.rounds[-1].memory.largest_child / 1e6
    return values


@dataclass(frozen=True)
class Target:
    """Target: the ratio to a peer that ours must reach, and the one that it aims at."""

    work: str
    other: str
    at_least: float | None = None
    goal: float | None = None
    is_for: Callable[[int], bool] = lambda num_bytes: True
    """Return True if a text of `num_bytes` counts."""


def is_large(num_bytes: int) -> bool:
    """Return True for a large text."""
    return num_bytes >= LARGE


def is_small(num_bytes: int) -> bool:
    """Return True for a small text."""
    return not is_large(num_bytes)


TARGETS = (
    Target("train", "rustbpe", at_least=3.5, is_for=is_large),
    Target("train", "tokenizers", at_least=8, is_for=is_large),
    Target("train", "gigatoken", goal=1, is_for=is_large),
    Target("train_memory", "gigatoken", goal=1, is_for=is_large),
    Target("train", "rustbpe", at_least=1, is_for=is_small),
    Target("encode_array", "tiktoken", at_least=8),
    Target("encode_array", "gigatoken", goal=1),
    Target("encode_list", "tiktoken", at_least=3),
    Target("encode_batch", "tiktoken", at_least=8),
    Target("encode_batch", "tokenizers", at_least=25),
    Target("encode_batch", "gigatoken", goal=1),
    Target("encode_batch", "gigatoken (bytes)", goal=1),
    Target("decode_bytes", "gigatoken", at_least=1, goal=2),
    Target("decode_text", "gigatoken", at_least=1, goal=2),
    Target("encode_short", "tiktoken", goal=1),
    Target("make_data", "gigatoken", goal=1, is_for=is_large),
    Target("encode_letters", "tiktoken", at_least=1),
)
SHORT_SECONDS = 25e-6
"""Target for the time of a call with ten words."""
LINEAR_SHARE = 0.5
"""Target for the rate on the longest word relative to a short one: linear, except for caches."""
MAKE_DATA_SHARE = 0.8
"""Target for the rate of making a token file relative to encoding on all cores."""


class Results:
    """All results, and look-ups in them."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.results = results
        self._found = {(result.work, result.corpus, result.contestant): result for result in results}

    def find(self, work: str, corpus: str, contestant: str) -> Result | None:
        """Return one result, None if there is none."""
        return self._found.get((work, corpus, contestant))

    def races(self) -> list[tuple[str, str]]:
        """Return (work, corpus), in the order of the results."""
        return list(dict.fromkeys((result.work, result.corpus) for result in self.results))

    def contestants(self) -> list[str]:
        """Return all names, ours first."""
        found = {result.contestant for result in self.results}
        return [name for name in CONTESTANTS if name in found]


def report(results: Results, num_threads: int) -> str:
    """Return all tables in Markdown."""
    parts = [machine(num_threads), "\n".join(figures(results)), "\n".join(targets(results))]
    return "\n\n".join(parts)


def machine(num_threads: int) -> str:
    """Return machine, versions and date."""
    packages = ("numpy", "numba", "regex", "tokenizers", "tiktoken", "rustbpe", "gigatoken")
    versions = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
    return f"{processor()}, {num_threads} cores, {platform.system()}. {', '.join(versions)}. {date.today()}."


def version(package: str) -> str:
    """Return a package's version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def processor() -> str:
    """Return the processor's name, if the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Return the lines of a table."""
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def figures(results: Results) -> Iterator[str]:
    """Return a row per work and corpus: the figure of each contestant, in MB/s or the work's unit."""
    names = results.contestants()
    rows = [
        [work, corpus, *(figure(results.find(work, corpus, name)) for name in names)]
        for work, corpus in results.races()
    ]
    yield from table(["work, MB/s", "text", *names], rows)


def figure(result: Result | None) -> str:
    """Return the figure of one contestant."""
    if result is None:
        return ""
    wrong = " (differs)" if result.is_wrong else ""
    if result.work == "train_memory":
        return f"{result.peak / 1e6:.0f} MB{wrong}"
    if result.work == "encode_short":
        return f"{result.median * 1e6:.1f} µs{wrong}"
    rate = result.rate / 1e6
    return f"{rate:.0f}{wrong}" if rate >= 100 else f"{rate:.3g}{wrong}"


def targets(results: Results) -> Iterator[str]:
    """Return the table of targets and measurements."""
    header = ["work", "text", "compared with", "ours is better by", "at least", "goal", ""]
    yield from table(header, [*ratios(results), *own_ratios(results)])


def ratios(results: Results) -> Iterator[list[str]]:
    """Return rows that compare ours with a peer."""
    for target in TARGETS:
        for work, corpus in results.races():
            ours, other = (results.find(work, corpus, name) for name in (OURS, target.other))
            if work == target.work and ours and other and target.is_for(ours.num_bytes):
                ratio = other.peak / ours.peak if work == "train_memory" else ours.rate / other.rate
                yield row(work, corpus, target.other, ratio, target.at_least, target.goal)


def own_ratios(results: Results) -> Iterator[list[str]]:
    """Return rows that compare ours with a number, or with itself."""
    letters: dict[str, list[Result]] = {}
    for result in (result for result in results.results if result.contestant == OURS):
        work, corpus = result.work, result.corpus
        if work == "encode_short":
            yield row(work, corpus, f"{SHORT_SECONDS * 1e6:g} µs", SHORT_SECONDS / result.median, 1, None)
        if work == "make_data" and is_large(result.num_bytes):
            encoding = results.find("encode_batch", corpus, OURS)
            if encoding:
                share = result.rate / encoding.rate
                yield row(work, corpus, "ours, encode_batch", share, MAKE_DATA_SHARE, None)
        if work == "encode_letters":
            letters.setdefault(corpus.partition(",")[0], []).append(result)
    for kind, of_kind in letters.items():
        short, long = min(of_kind, key=by_size), max(of_kind, key=by_size)
        if short is not long:
            growth = f"{long.num_bytes / short.num_bytes:g} times the length"
            yield row("encode_letters", kind, f"rate at {growth}", long.rate / short.rate, LINEAR_SHARE, None)


def by_size(result: Result) -> int:
    """Return the length of its text."""
    return result.num_bytes


def row(
    work: str, corpus: str, other: str, ratio: float, at_least: float | None, goal: float | None
) -> list[str]:
    """Return a row of the table of targets."""
    verdict = "reached" if ratio >= (at_least or goal or 0) else "missed"
    if goal and at_least and ratio >= goal:
        verdict = "goal reached"
    asked = ["" if number is None else f"{number:g}" for number in (at_least, goal)]
    return [work, corpus, other, f"{ratio:.3g}", *asked, verdict]
