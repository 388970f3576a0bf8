"""Fit of the constants in src/transformerlm/ngrams/factors.py to runs: how far counts are trusted.

    python -m benchmarking.fit_ngrams --config configs/fit_ngrams.toml --bench.runs='["runs/a", "runs/b"]'

For each run, the validation tokens that it was not trained on are scored by its model as training does, and
looked up in the memory of its training tokens, which takes part at strength 1 (ngrams/trust.py). Results are
JSON lines: for each run the bits per byte of the network, with the memory and the factors that are shipped,
with the fitted ones, and with those fitted to all other runs; then the means of the ratios to the network's
bits, and the fitted factors. Take runs of texts of several kinds: each counts alike, however long. It takes
some half a minute for each run.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from benchmarking.ngram_fit import Counted, Floats, count, factors_of, fit, logs_of, loss
from transformerlm.cli.command import Command, run_command
from transformerlm.config import EvalSection, RuntimeConfig
from transformerlm.data import files_of
from transformerlm.errors import DataError
from transformerlm.evaluation.documents import end_of_text_id, load_for_scoring
from transformerlm.evaluation.held_out import nats_of
from transformerlm.ngrams import Factors, NgramIndex
from transformerlm.ngrams.index import MAX_TOKENS
from transformerlm.nn.fused import with_kernels
from transformerlm.report.card_source import validation_tokens
from transformerlm.schema import FilePath, PositiveInt, Section


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSection(Section):
    """[bench]: the runs."""

    runs: tuple[FilePath, ...] = ("runs/python-stdlib",)
    """Folders of runs whose token files are still those of their training."""
    max_tokens: PositiveInt = 200_000
    """Validation tokens of each corpus of a run, from its beginning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitNgramsConfig(Section):
    """benchmarking.fit_ngrams."""

    bench: BenchSection = field(default_factory=BenchSection)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


class Scored(NamedTuple):
    """A run's validation text."""

    run: str
    counted: Counted
    tokens_per_byte: float

    def bits(self, nats: Floats) -> float:
        """Return bits per byte, from the nats of each target."""
        return float(nats.mean() / math.log(2) * self.tokens_per_byte)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    command = Command(
        FitNgramsConfig, bench, description="Fit how much the memory's counts of n-grams are trusted."
    )
    return run_command(command, argv)


def bench(config: FitNgramsConfig) -> int:
    """Score all runs, fit, and print."""
    from transformerlm.logging import ConsoleLogger

    logger = ConsoleLogger()
    scored = [score(run, config) for run in config.bench.runs]
    texts, shipped = [one.counted for one in scored], logs_of(Factors())
    fitted = fit(texts, shipped)
    apart = [fit(_without(texts, text), shipped) for text in texts] if len(texts) > 1 else []
    for one, own in itertools.zip_longest(scored, apart):
        logger.log(measured(one, shipped, fitted, own))
    logger.log(means(texts, shipped, fitted, apart))
    factors = factors_of(fitted)
    for kind, values in (("training", factors.training), ("earlier", factors.earlier)):
        logger.log({"bench.factors": kind} | {f"bench.order_{n}": round_to_3(u) for n, u in values.items()})
    return 0


def measured(one: Scored, shipped: Floats, fitted: Floats, apart: Floats | None) -> dict[str, str | float]:
    """Return what is printed of a run: bits per byte."""
    values: dict[str, str | float] = {
        "bench.run": one.run,
        "bench.tokens": len(one.counted.nats),
        "bench.network": one.bits(one.counted.nats),
        "bench.shipped": one.bits(one.counted.mixed(shipped)),
        "bench.fitted": one.bits(one.counted.mixed(fitted)),
    }
    if apart is not None:
        values["bench.fitted_to_others"] = one.bits(one.counted.mixed(apart))
    return values


def means(
    texts: Sequence[Counted], shipped: Floats, fitted: Floats, apart: Sequence[Floats]
) -> dict[str, str | float]:
    """Return the geometric means of the ratios to the network's bits."""
    values: dict[str, str | float] = {"bench.run": "mean ratio"}
    values |= {"bench.shipped": math.exp(loss(texts, shipped)), "bench.fitted": math.exp(loss(texts, fitted))}
    if apart:
        losses = [loss([text], own) for text, own in zip(texts, apart, strict=True)]
        values["bench.fitted_to_others"] = math.exp(sum(losses) / len(losses))
    return values


def score(run: str, config: FitNgramsConfig) -> Scored:
    """Score a run's validation tokens, and look them up in its training tokens.

    Raises:
        DataError: they are not there any more, or too many.
    """
    lm = load_for_scoring(run, dataclasses.replace(config.runtime, ngram_memory=False))
    data = validation_tokens(lm.checkpoint)
    if data is None or data.val is None:
        what = "expected the token files of its training where its config says, with validation text"
        raise DataError(f"{run}: {what}")
    training = [file.tokens for file in files_of(data.train).values()]
    if data.train.num_tokens > MAX_TOKENS:
        raise DataError(
            f"{run}: expected at most {MAX_TOKENS:,} training tokens, got {data.train.num_tokens:,}"
        )
    index = NgramIndex.build(training, lm.tokenizer.vocab_size)
    files = [file.tokens[: config.bench.max_tokens] for file in files_of(data.val).values()]
    model = with_kernels(lm.model) if lm.runtime.kernels else lm.model
    nats = np.concatenate([nats_of(model, tokens, lm.runtime) for tokens in files])
    counted = count(index, files, end_of_text_id(lm, EvalSection()), nats)
    return Scored(run, counted, data.val.num_tokens / data.val.num_bytes)


def round_to_3(value: float) -> float:
    """Return a number with three significant digits."""
    return float(f"{value:.3g}")


def _without(texts: Sequence[Counted], left_out: Counted) -> list[Counted]:
    return [text for text in texts if text is not left_out]


if __name__ == "__main__":
    sys.exit(main())
