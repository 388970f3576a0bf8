"""The charts of a report: what they show, their data for `page.js`, and their tables.

All values are those of metrics.jsonl; of a long series as many are kept as `reduce.py` says.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformerlm.logging import names
from transformerlm.report.marks import Mark, marks
from transformerlm.report.metrics import DRAWN_PERCENT, Metrics, Numbers, Series
from transformerlm.report.reduce import gaps, kept_points, running_mean
from transformerlm.report.run import Run

NUM_PARTS, MIN_PARTS = 500, 40
"""Parts of the axis, each of which keeps its extremes: of one run; of each of many at least."""
MEAN_RECORDS = 60
"""Records from which on a noisy curve has a running mean; it is over two of this many parts of them."""
MARKS_PER_AXIS = 1000
"""Marks of one kind that are nearer to each other than this part of the axis are drawn as one."""


@dataclass(frozen=True)
class Chart:
    """A chart: a title and its series."""

    key: str
    title: str
    unit: str
    series: tuple[tuple[str, str], ...]
    """Key in the page's data, and name in metrics.jsonl."""


QUALITY = Chart(
    "quality",
    "Training and validation",
    "",
    (
        ("loss", names.LOSS),
        ("bits", names.BITS_PER_BYTE),
        ("val_loss", names.VAL_LOSS),
        ("val_bits", names.VAL_BITS_PER_BYTE),
    ),
)
DETAILS = (
    Chart("lr", "Learning rate", "", (("lr", names.LR),)),
    Chart("grad_norm", "Gradient norm before clipping", "", (("grad_norm", names.GRAD_L2_NORM),)),
    Chart("rate", "Throughput", "tokens per second", (("rate", names.TOKENS_PER_SECOND),)),
    Chart("mfu", "Utilisation", "FLOPs of the model / peak", (("mfu", names.MFU),)),
)
CHARTS = (QUALITY, *DETAILS)
CORPUS_CHARTS = (
    Chart(
        "corpus_bits", "Validation by corpus", "bits per byte", (("corpus_bits", names.VAL_BITS_PER_BYTE),)
    ),
    Chart(
        "corpus_drawn",
        "Tokens drawn of each corpus, and its share",
        "% of all so far",
        (("corpus_drawn", DRAWN_PERCENT),),
    ),
)
"""Charts of a mixture, whose keys and names begin those of each corpus (`names.of_corpus`)."""
NOISY = frozenset({names.LOSS, names.BITS_PER_BYTE, names.GRAD_L2_NORM, names.TOKENS_PER_SECOND, names.MFU})
"""Metrics whose running mean is drawn too."""


def details_of(runs: Sequence[Run]) -> tuple[Chart, ...]:
    """Return the charts below the main one: of a single run on a mixture also those of its corpora."""
    corpora = [corpus.name for corpus in runs[0].mixture] if len(runs) == 1 else []
    if not corpora:
        return DETAILS
    of_corpora = (
        dataclasses.replace(
            chart,
            series=tuple(
                (names.of_corpus(key, corpus), names.of_corpus(name, corpus))
                for key, name in chart.series
                for corpus in corpora
            ),
        )
        for chart in CORPUS_CHARTS
    )
    return (*of_corpora, *DETAILS)


def page_data(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the data of all charts, as JSON values."""
    num_parts = max(MIN_PARTS, NUM_PARTS // max(1, len(runs)))
    charts = (QUALITY, *details_of(runs))
    return {
        "runs": [run_data(run, num_parts, charts) for run in runs],
        "references": references(runs),
        "corpora": [{"name": corpus.name, "share": corpus.share} for corpus in runs[0].mixture]
        if len(runs) == 1
        else [],
    }


def run_data(run: Run, num_parts: int, charts: Sequence[Chart] = CHARTS) -> dict[str, Any]:
    """Return the data of one run."""
    series = {
        key: series_data(run.metrics, name, num_parts, with_mean=name in NOISY)
        for chart in charts
        for key, name in chart.series
        if len(run.metrics[name])
    }
    return {
        "name": run.name,
        "bits_per_nat": bits_per_nat(run),
        "series": series,
        "marks": marks_data(marks(run), run.metrics),
    }


def bits_per_nat(run: Run) -> float | None:
    """Return the factor from the training loss, nats per token, to bits per byte of the training text.

    It is needed for runs of earlier versions, which did not log the latter.
    """
    train = run.train
    return train.tokens / train.num_bytes / math.log(2) if train and train.num_bytes else None


def recorded(series: Series, metrics: Metrics) -> dict[str, Any]:
    """Return all points of a series, such as new ones of `metrics`, as `series_data` has them."""
    tokens, seconds = metrics.tokens_at(series.steps), metrics.seconds_at(series.steps).round(2)
    columns = {"step": series.steps, "value": series.values, "tokens": tokens, "seconds": seconds}
    return {key: _plain(numbers) for key, numbers in columns.items()}


def series_data(metrics: Metrics, name: str, num_parts: int, *, with_mean: bool = False) -> dict[str, Any]:
    """Return the points of a series that are kept: step, tokens, seconds, value; null where a gap is."""
    series = metrics[name]
    kept = kept_points(series.steps, series.values, num_parts)
    number_of_gaps = np.cumsum(gaps(series.steps))[kept]
    after = np.flatnonzero(
        np.diff(number_of_gaps, prepend=0) > 0
    ).tolist()  # a gap ends before these kept points
    data = recorded(Series(series.steps[kept], series.values[kept]), metrics)
    if with_mean and len(series) >= MEAN_RECORDS:
        mean = running_mean(series.values, len(series) // MEAN_RECORDS)[kept]
        data["mean"] = _plain(mean, digits=5)
    for column in data.values():
        for index in reversed(after):
            column.insert(index, None)
    return data


def _plain(numbers: Numbers, digits: int | None = None) -> list[Any]:
    """Return JSON values: whole numbers without a point, NaN and infinities as texts."""
    return [_json_number(number, digits) for number in numbers.tolist()]


def _json_number(number: float, digits: int | None) -> Any:
    if not math.isfinite(number):
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    number = number if digits is None else float(f"{number:.{digits}g}")
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def marks_data(found: Sequence[Mark], metrics: Metrics) -> list[dict[str, Any]]:
    """Return marks with their place on all three axes; of those that would touch each other, one."""
    if not found:
        return []
    steps = np.array([float(mark.step) for mark in found])
    nearness = max(1.0, metrics.last_step / MARKS_PER_AXIS)
    places = zip(found, metrics.tokens_at(steps), metrics.seconds_at(steps), strict=True)
    last: dict[str, float] = defaultdict(lambda: -math.inf)
    data = []
    for mark, tokens, seconds in places:
        if mark.step - last[mark.kind] >= nearness:
            last[mark.kind] = mark.step
            axes = {"tokens": _json_number(tokens, None), "seconds": _json_number(seconds, 6)}
            data.append({"kind": mark.kind, "step": mark.step, **axes, "text": mark.text})
    return data


def references(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the lines that all runs are compared with: xz, if they have the same text; what was expected.

    In bits per byte; `bits_per_nat` turns a validation loss into them, if it is the same for all runs.
    """
    compressors = {tuple(run.xz) for run in runs}
    xz = compressors.pop() if len(compressors) == 1 else ()
    factors = {_validation_bits_per_nat(run) for run in runs}
    factor = factors.pop() if len(factors) == 1 else None
    expected = runs[0].expected if len(runs) == 1 else None
    return {"xz": list(xz), "expected": list(expected or ()), "bits_per_nat": factor}


def _validation_bits_per_nat(run: Run) -> float | None:
    val = run.val
    return val.tokens / val.num_bytes / math.log(2) if val and val.num_bytes else None


NUM_ROWS = 24
"""Rows of a chart's table."""


def table(chart: Chart, runs: Sequence[Run]) -> dict[str, Any]:
    """Return what a chart shows as a table for screen readers: its head, and rows of texts."""
    rows = [row for run in runs for name in chart.series for row in _rows(run, *name, several=len(runs) > 1)]
    head = ["run"] if len(runs) > 1 else []
    head += ["series"] if len(chart.series) > 1 else []
    index = [number for number, word in enumerate(("run", "series")) if word in head]
    return {"head": [*head, "step", "tokens", "time", "value"], "rows": [_picked(row, index) for row in rows]}


def _picked(row: list[str], index: list[int]) -> list[str]:
    return [*(row[i] for i in index), *row[2:]]


def _rows(run: Run, key: str, name: str, *, several: bool) -> Iterator[list[str]]:
    from transformerlm.report.text import count, duration

    series = run.metrics[name]
    kept = _told(series, 3 if several else NUM_ROWS)
    steps = series.steps[kept]
    tokens, seconds = run.metrics.tokens_at(steps), run.metrics.seconds_at(steps)
    for step, token, second, value in zip(steps, tokens, seconds, series.values[kept], strict=True):
        corpus = key.partition(".")[2]
        word = corpus or key.replace("_", " ").replace("val", "validation")
        yield [run.name, word, f"{int(step):,}", count(token), duration(second), f"{value:.6g}"]


def _told(series: Series, number: int) -> list[int]:
    """Return the indices of evenly spread records, the lowest and the highest among them."""
    if not len(series):
        return []
    found = set(np.linspace(0, len(series) - 1, min(number, len(series))).round().astype(int).tolist())
    finite = np.isfinite(series.values)
    if finite.any():
        found |= {int(np.where(finite, series.values, np.inf).argmin())}
        found |= {int(np.where(finite, series.values, -np.inf).argmax())}
    return sorted(found)
