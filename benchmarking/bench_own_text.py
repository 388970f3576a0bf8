"""Bits per byte of what is chosen for a text and a time, beside compressors, nanoGPT and hand-made configs.

    python -m benchmarking.bench_own_text --config configs/bench_own_text.toml

With `--bench.nanogpt_dir=path/to/nanoGPT`, a checkout, that is a contestant too. It takes hours. Each result
is kept as it is found, and the same command goes on from there, also after a kill. Rows are JSON lines on
stdout, and a table on stderr at the end. Run nothing else meanwhile.
"""

from __future__ import annotations

import functools
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from benchmarking.own_text_cells import Cells, Result
from benchmarking.own_text_report import Row, record, table, verdict
from benchmarking.own_text_texts import Split, Text, find_text
from benchmarking.timing import LeftOutError
from transformerlm.cli.arguments import typed
from transformerlm.cli.command import Command, run_command
from transformerlm.config.training import IsTime, seconds_of
from transformerlm.errors import ConfigError, DataError, Key, Problem
from transformerlm.limits import available_cores
from transformerlm.logging import ConsoleLogger
from transformerlm.schema import FilePath, PositiveInt, Section, from_dict
from transformerlm.schema import Text as NotEmpty
from transformerlm.storage.lock import locked


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair(Section):
    """A text and a time. In [bench].pairs it is one line, as in a shell: `key=value`, and `--` overrides."""

    name: NotEmpty = ""
    """Name of the row."""
    text: FilePath = "python-stdlib"
    """As [data].corpus; {test_data} and {packages} stand for folders."""
    first_bytes: PositiveInt | None = None
    """Use the beginning of the text only."""
    time: Annotated[str, IsTime()] = "2m"
    """[training].max_time of each contestant that trains."""
    grid: Literal["small_text", "medium_text", "large_text"] | None = None
    """Table of hand-made configs to compare with."""
    overrides: tuple[str, ...] = ()
    """Further words of our own commands."""

    @classmethod
    def parse(cls, line: str) -> Pair:
        """Return the pair of a line.

        Raises:
            ConfigError: it is not of that form, or a value is not allowed.
        """
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise ConfigError(f"expected words as in a shell, got {line!r}: {error}") from None
        overrides = [word for word in words if word.startswith("--")]
        values = dict(word.partition("=")[::2] for word in words if not word.startswith("--"))
        return from_dict(cls, {**typed(values, cls), "overrides": overrides}, line)

    @property
    def seconds(self) -> float:
        """`time` in seconds."""
        found = seconds_of(self.time)
        assert found
        return found

    @property
    def num_threads(self) -> str | None:
        """Number of threads that the overrides ask for, for contestants that do not take them."""
        key = "--runtime.num_threads="
        return next((word.removeprefix(key) for word in self.overrides if word.startswith(key)), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSection(Section):
    """[bench]: the pairs, and where results are kept."""

    pairs: tuple[NotEmpty, ...] = ("name=python-stdlib time=10m",)
    """Texts and times, each a line as in a shell: name=, text=, first_bytes=, time=, grid=, and overrides of
    our own commands."""
    only: tuple[NotEmpty, ...] = ()
    """Names of the pairs to run. []: all."""
    nanogpt_dir: FilePath | None = None
    """A checkout of nanoGPT. None: without it."""
    results: FilePath = "runs/own_text"
    """Folder of the results: cells.jsonl has a line for each; one that is removed is found again."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield lines that are no pairs, names that come twice, and unknown names in `only`."""
        names: list[str] = []
        for line in self.pairs:
            try:
                names.append(Pair.parse(line).name)
            except ConfigError as error:
                yield from (Problem(Key("pairs"), str(problem)) for problem in error.problems)
                return
        if len(set(names)) < len(names):
            yield Problem(Key("pairs"), f"expected no name twice, got {names}")
        if unknown := [name for name in self.only if name not in names]:
            yield Problem(Key("only"), f"expected names of pairs, {names}, got {unknown}")

    def chosen(self) -> list[Pair]:
        """Return the pairs to run."""
        pairs = map(Pair.parse, self.pairs)
        return [pair for pair in pairs if not self.only or pair.name in self.only]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid(Section):
    """Hand-made configs for texts of one size."""

    arguments: str = ""
    """Overrides that all have, as in a shell."""
    candidates: tuple[str, ...] = ()
    """Overrides of each, as in a shell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchOwnTextConfig(Section):
    """benchmarking.bench_own_text."""

    bench: BenchSection = field(default_factory=BenchSection)
    small_text: Grid = field(default_factory=Grid)
    medium_text: Grid = field(default_factory=Grid)
    large_text: Grid = field(default_factory=Grid)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    command = Command(
        BenchOwnTextConfig,
        bench,
        description="Compare what is chosen for a text and a time with compressors and other trainings.",
    )
    return run_command(command, argv)


def bench(config: BenchOwnTextConfig) -> int:
    """Find what is not kept yet, and print the table."""
    results = Path(config.bench.results).expanduser().absolute()
    with locked(results, say):
        work = results / "work"
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
        work.mkdir()
        try:
            rows = Contest(config, results, work).rows()
        finally:
            shutil.rmtree(work, ignore_errors=True)
    say("\n".join([*table(rows), *verdict(rows)]))
    return 0


class Contest:
    """The contestants, with the folders that they use and the results that are kept."""

    def __init__(self, config: BenchOwnTextConfig, results: Path, work: Path) -> None:
        self.config = config
        self.splits, self.work = results / "splits", work
        self.cells = Cells(results / "cells.jsonl")
        self.machine = machine()

    def text(self, pair: Pair) -> Text | None:
        """Return the text of a pair; None, with a message, if this machine does not have it."""
        folder = self.work / "texts"
        folder.mkdir(exist_ok=True)
        try:
            return find_text(pair.text, pair.name, pair.first_bytes, folder)
        except DataError as error:
            say(f"{pair.name}: left out: {error}")
            return None

    def rows(self) -> list[Row]:
        """Find what is not kept; print the record of each row when it is complete."""
        chosen = self.config.bench.chosen()
        texts = {pair: text for pair in chosen if (text := self.text(pair))}
        rows = {}
        for pair, text in texts.items():
            ours = self.trained(pair, text, "transformerlm", pair.overrides)
            peers = self.peers(pair, ours["split"]) if ours else {}
            rows[pair] = Row(pair.name, pair.time, ours, peers)
            if pair.grid is None:
                self.log(rows[pair])
        for pair in [pair for pair in rows if pair.grid]:  # last: they take most of the time
            rows[pair] = replace(rows[pair], grid=self.grid(pair, texts[pair]))
            self.log(rows[pair])
        return list(rows.values())

    def log(self, row: Row) -> None:
        """Print the record of a row."""
        ConsoleLogger().log({**record(row), "bench.machine": self.machine})

    def trained(self, pair: Pair, text: Text, name: str, overrides: Sequence[str]) -> Result | None:
        """Return a training of this package."""
        from benchmarking.own_text_runs import train

        work = functools.partial(train, text, pair.time, overrides, self.splits, self.work)
        inputs = {"text": text.sha256, "time": pair.time, "overrides": shlex.join(overrides)}
        return self.cell(pair, name, {**inputs, "machine": self.machine}, work)

    def grid(self, pair: Pair, text: Text) -> dict[str, Result]:
        """Return the hand-made configs of a pair that could be trained."""
        grid: Grid = getattr(self.config, pair.grid) if pair.grid else Grid()
        found = {}
        for candidate in grid.candidates:
            overrides = [*pair.overrides, *shlex.split(grid.arguments), *shlex.split(candidate)]
            if result := self.trained(pair, text, f"grid: {candidate}", overrides):
                found[candidate] = result
        return found

    def peers(self, pair: Pair, split: str) -> dict[str, Result]:
        """Return the results of the others, on the split of ours."""
        from benchmarking.own_text_runs import ppmd, xz

        def load() -> Split:
            return Split.load(self.splits, split)

        found = {
            "PPMd": self.cell(pair, "PPMd", {"split": split}, lambda: ppmd(load())),
            "xz": self.cell(pair, "xz", {"split": split}, lambda: xz(load())),
            "nanoGPT": self.nanogpt(pair, split, load),
        }
        return {name: result for name, result in found.items() if result}

    def nanogpt(self, pair: Pair, split: str, load: Callable[[], Split]) -> Result | None:
        """Return nanoGPT's result; None without a checkout."""
        from benchmarking.own_text_nanogpt import train_nanogpt

        if self.config.bench.nanogpt_dir is None:
            return None
        checkout, threads = Path(self.config.bench.nanogpt_dir).expanduser().absolute(), pair.num_threads
        inputs = {"time": pair.time, "num_threads": threads or "", "machine": self.machine}
        return self.cell(
            pair,
            "nanoGPT",
            {"split": split, **inputs},
            lambda: train_nanogpt(load(), pair.seconds, checkout, threads, self.work),
        )

    def cell(
        self, pair: Pair, contestant: str, inputs: Mapping[str, str], work: Callable[[], dict[str, Any]]
    ) -> Result | None:
        """Return a result that is kept, or find and keep it; None, with a message, if that fails."""
        cell = {"contestant": contestant, **inputs}
        if (kept := self.cells.find(cell)) is not None:
            return kept
        title = f"{pair.name}, {pair.time}: {contestant}"
        try:
            found = work()
        except subprocess.CalledProcessError as error:
            say(f"{title}: ended with status {error.returncode} (its own words are above): left out")
            return None
        except LeftOutError as error:
            say(f"{title}: {error}: left out")
            return None
        self.cells.keep(cell, found)
        say(f"{title}: {found['bits_per_byte']:.3f} bits per byte")
        return found


def machine() -> str:
    """Return the names of the processor and of the GPU, if there is one, and the number of usable cores."""
    import torch

    from benchmarking.tokenizer_report import processor

    name = f"{processor()}, {available_cores()} cores"
    return f"{name}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else name


def say(message: str) -> None:
    """Print a message to stderr, at once."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
