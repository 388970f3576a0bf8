"""Measurement of the scaling law that transformerlm-train chooses by: trainings, and the fit of constants.

    python -m benchmarking.measure_law --config configs/measure_law.toml

Each training is the command with a text, a vocabulary, a model and a number of passes; all else is chosen as
for a user. Results are kept as they are found, and the same command goes on from there. At the end the
constants of `transformerlm.recipe.law` are fitted and printed with the residuals, also those of
texts that take no part in the fit. It takes an hour or two; other work beside it does no harm.
"""

from __future__ import annotations

import functools
import math
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarking.bench_own_text import say
from benchmarking.law_fit import Point, fit, log_residual, with_short_pilot
from benchmarking.own_text_cells import Cells, Result
from benchmarking.own_text_runs import train
from benchmarking.own_text_texts import Text, find_text
from transformerlm.cli.arguments import typed
from transformerlm.cli.command import Command, run_command
from transformerlm.config import CorpusConfig, ModelConfig, RuntimeConfig, TokenizerConfig
from transformerlm.errors import DataError
from transformerlm.recipe import TextFacts, survey
from transformerlm.recipe.law import Law
from transformerlm.recipe.pilot import Pilot
from transformerlm.runtime import Runtime
from transformerlm.schema import FilePath, PositiveFloat, PositiveInt, Section, from_dict
from transformerlm.schema import Text as NotEmpty
from transformerlm.storage.lock import locked

SHORT_PILOT_TOKENS = 100 * 2048

S = TypeVar("S", bound=Section)


@dataclass(frozen=True, kw_only=True, slots=True)
class LawText(Section):
    """A text; in [law].texts one line of `key=value`, as in a shell."""

    name: NotEmpty = ""
    """Name in [law].runs."""
    text: FilePath = "python-stdlib"
    """As [data].corpus; {test_data} and {packages} stand for folders."""
    first_bytes: PositiveInt | None = None
    """Use the beginning only."""
    is_held_out: bool = False
    """Takes no part in the fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LawRun(Section):
    """A training; in [law].runs one line of `key=value`, as in a shell."""

    text: NotEmpty = ""
    """Name of a text."""
    vocab: PositiveInt = 1024
    """[tokenizer].vocab_size."""
    width: PositiveInt = 128
    """[model].d_model."""
    layers: PositiveInt = 4
    """[model].num_layers."""
    passes: PositiveFloat = 1.0
    """[training].max_passes."""

    @property
    def overrides(self) -> list[str]:
        """Words of the command."""
        return [
            f"--tokenizer.vocab_size={self.vocab}",
            f"--model.d_model={self.width}",
            f"--model.num_layers={self.layers}",
            f"--training.max_passes={self.passes}",
            "--runtime.num_threads=1",
            "--generation.max_new_tokens=1",
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class LawSection(Section):
    """[law]: the trainings, and where results are kept."""

    texts: tuple[NotEmpty, ...] = ("name=python-stdlib",)
    """Texts, each a line as in a shell: name=, text=, first_bytes=, is_held_out=."""
    runs: tuple[NotEmpty, ...] = ()
    """Trainings, each a line as in a shell: text=, vocab=, width=, layers=, passes=."""
    results: FilePath = "runs/law"
    """Folder of the results: cells.jsonl has a line for each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureLawConfig(Section):
    """benchmarking.measure_law."""

    law: LawSection = field(default_factory=LawSection)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    command = Command(
        MeasureLawConfig, measure, description="Measure the scaling law that the choice of a config goes by."
    )
    return run_command(command, argv)


def measure(config: MeasureLawConfig) -> int:
    """Train what is not kept yet; fit and print."""
    results = Path(config.law.results).expanduser().absolute()
    with locked(results, say):
        work = results / "work"
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
        work.mkdir()
        try:
            points = list(measured(config.law, results, work))
        finally:
            shutil.rmtree(work, ignore_errors=True)
    print("\n".join(report(points)))
    return 0


def measured(section: LawSection, results: Path, work: Path) -> Iterator[Point]:
    """Yield the result of each run, in order; a text or a training that fails is left out with a message."""
    cells = Cells(results / "cells.jsonl")
    texts = {one.name: one for one in (parsed(LawText, line) for line in section.texts)}
    for run in (parsed(LawRun, line) for line in section.runs):
        text = texts[run.text]
        try:
            found, facts, short_pilot = prepared(text, work)
            result = trained(run, found, cells, results / "splits", work)
        except DataError as error:
            say(f"{text.name}: left out: {error}")
            continue
        except subprocess.CalledProcessError as error:
            say(f"{run}: ended with status {error.returncode}: left out")
            continue
        point = make_point(text, facts, short_pilot, run, result)
        say(f"{run}: {point.bits:.4f} bits per byte, {log_residual(point, Law()):+.1%} from the law")
        yield point


def trained(run: LawRun, text: Text, cells: Cells, splits: Path, work: Path) -> Result:
    """Return the result of a training that is kept, or train and keep it.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    cell = {"text": text.sha256, "run": shlex.join(run.overrides)}
    result = cells.find(cell)
    if result is None:
        result = train(text, "24h", run.overrides, splits, work)
        cells.keep(cell, result)
    return result


@functools.cache
def prepared(text: LawText, work: Path) -> tuple[Text, TextFacts, Pilot]:
    """Return a text, the facts about it with a long pilot, and a short one.

    Raises:
        DataError: this machine does not have it.
    """
    found, config = find_text(text.text, text.name, text.first_bytes, work), RuntimeConfig()
    read = survey(CorpusConfig(corpus=found.path), TokenizerConfig())
    runtime = Runtime.from_config(config)
    long, short = (read.measured(tokens, runtime, config) for tokens in (math.inf, SHORT_PILOT_TOKENS))
    return found, long, short.pilot


def make_point(text: LawText, facts: TextFacts, short_pilot: Pilot, run: LawRun, result: Result) -> Point:
    """Return a result in the variables of the law."""
    model = ModelConfig(
        vocab_size=result["vocab_size"],
        d_model=result["d_model"],
        num_layers=result["num_layers"],
        num_heads=1,
        d_ff=64 * math.ceil(result["d_model"] * 8 / 3 / 64),
        tie_embeddings=True,
    )
    tokens = result["passes"] * facts.train_bytes / facts.bytes_in_token(model.vocabulary_rows)
    return Point(text.name, text.is_held_out, facts, short_pilot, model, tokens, result["bits_per_byte"])


def parsed(section: type[S], line: str) -> S:
    """Return the section that a line of `key=value` describes."""
    values: Mapping[str, str] = dict(word.partition("=")[::2] for word in shlex.split(line))
    return from_dict(section, typed(values, section), line)


def report(points: Sequence[Point]) -> Iterator[str]:
    """Yield the lines about the fit."""
    fitted = [point for point in points if not point.is_held_out]
    law = fit(fitted)
    yield f"{len(fitted)} trainings: {law}"
    yield f"standard deviation of the residuals: {deviation(fitted, law):.2%}"
    for name in sorted({point.text for point in points}):
        own = [point for point in points if point.text == name]
        alone = fit([point for point in fitted if point.text != name])
        kind = "held out" if own[0].is_held_out else "fitted"
        yield (
            f"{name} ({kind}, {len(own)}): mean {mean(own, law):+.2%}, deviation {deviation(own, law):.2%}; "
            f"fitted without it: {spread(own, alone)}, with a short pilot "
            f"{spread(list(map(with_short_pilot, own)), alone)}"
        )


def spread(points: Sequence[Point], law: Law) -> str:
    """Return the least and the largest residual."""
    residuals = [log_residual(point, law) for point in points]
    return f"{min(residuals):+.1%} to {max(residuals):+.1%}"


def mean(points: Sequence[Point], law: Law) -> float:
    """Return the mean residual."""
    return statistics.fmean(log_residual(point, law) for point in points)


def deviation(points: Sequence[Point], law: Law) -> float:
    """Return the root of the mean square residual."""
    return math.sqrt(statistics.fmean(log_residual(point, law) ** 2 for point in points))


if __name__ == "__main__":
    sys.exit(main())
