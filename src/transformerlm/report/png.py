"""Curves of runs as PNG files for papers, drawn by matplotlib (transformerlm[report])."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from transformerlm.errors import ConfigError, Key
from transformerlm.logging import names
from transformerlm.report.charts import DETAILS, bits_per_nat, references
from transformerlm.report.metrics import Series
from transformerlm.report.reduce import running_mean
from transformerlm.report.run import Run
from transformerlm.storage.files import committed_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b85c95", "#b37d00", "#3f9bd1", "#3c3f45", "#8c564b")
"""Those of the page; people who do not see all colours can tell them apart."""
WIDTH, HEIGHT, DPI = 3.5, 2.4, 300
"""Inches: one column of a paper."""


def write_pictures(runs: Sequence[Run], directory: Path) -> list[Path]:
    """Write a PNG file per chart; return their paths.

    Raises:
        ConfigError: matplotlib is not installed.
        OutputError: the disk is full.
    """
    paths = []
    for name, figure in pictures(runs):
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})
        with committed_file(directory / f"{name}.png") as file:
            file.write(content.getvalue())
        paths.append(directory / f"{name}.png")
    return paths


def pictures(runs: Sequence[Run]) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the figure of each chart that has data.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    if any(len(run.metrics[names.LOSS]) or len(run.metrics[names.VAL_LOSS]) for run in runs):
        figure, axes = _figure("loss, nats per token")
        _draw_quality(axes, runs, names.VAL_LOSS, [1.0 for _ in runs])
        yield "loss", figure
    if any(len(run.metrics[names.VAL_BITS_PER_BYTE]) for run in runs):
        figure, axes = _figure("bits per byte")
        _draw_quality(axes, runs, names.VAL_BITS_PER_BYTE, [bits_per_nat(run) for run in runs])
        _draw_references(axes, runs)
        yield "bits_per_byte", figure
    for chart in DETAILS:
        (key, name) = chart.series[0]
        if any(len(run.metrics[name]) for run in runs):
            figure, axes = _figure(chart.unit or chart.title.lower())
            for run, colour in zip(runs, _colours(runs), strict=True):
                axes.plot(
                    run.metrics[name].steps, run.metrics[name].values, color=colour, lw=0.8, label=run.name
                )
            if len(runs) > 1:
                axes.legend(frameon=False)
            yield key, figure


def _figure(label: str) -> tuple[Figure, Axes]:
    """Return a figure that no global state of matplotlib knows of."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        what = "expected the package matplotlib for pictures, which is not installed"
        raise ConfigError(
            f'{what}: pip install "transformerlm[report]"', key=Key("report", "png_dir")
        ) from None
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_tick_params(labelsize=7)
    axes.set_xlabel("optimizer steps", fontsize=8)
    axes.set_ylabel(label, fontsize=8)
    axes.grid(axis="y", lw=0.4, alpha=0.4)
    return figure, axes


def _colours(runs: Sequence[Run]) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(len(runs))]


def _draw_quality(axes: Axes, runs: Sequence[Run], validation: str, factors: Sequence[float | None]) -> None:
    """Draw the training loss (pale, with its running mean) and the validations of each run."""
    for run, colour, factor in zip(runs, _colours(runs), factors, strict=True):
        train, val = run.metrics[names.LOSS], run.metrics[validation]
        several = len(runs) > 1
        if len(train) and factor:
            _draw_training(axes, train, factor, colour, "" if several else "training")
        label = run.name if several else "validation"
        axes.plot(
            val.steps, val.values, "o-", ms=2.5, lw=1.0, color=colour if several else COLOURS[1], label=label
        )
    axes.legend(frameon=False, fontsize=7)
    _leave_out_first_losses(axes, runs, validation, factors)


def _draw_training(axes: Axes, train: Series, factor: float, colour: str, label: str) -> None:
    values = train.values * factor
    axes.plot(train.steps, values, color=colour, lw=0.5, alpha=0.35)
    mean = running_mean(values, max(1, len(values) // 60))
    axes.plot(train.steps, mean, color=colour, lw=1.0, label=label or None)


def _leave_out_first_losses(
    axes: Axes, runs: Sequence[Run], validation: str, factors: Sequence[float | None]
) -> None:
    """Let the losses of the first hundredths of a run leave the picture at the top, as on the page."""
    shown = [run.metrics[validation].finite.values for run in runs]
    for run, factor in zip(runs, factors, strict=True):
        train = run.metrics[names.LOSS].finite
        shown.append(train.values[train.steps >= 0.04 * run.metrics.last_step] * (factor or math.nan))
    values = np.concatenate(shown)
    values = values[np.isfinite(values)]
    if len(values) > 2 and values.max() > values.min():
        margin = 0.06 * (values.max() - values.min())
        axes.set_ylim(values.min() - margin, values.max() + margin)


def _draw_references(axes: Axes, runs: Sequence[Run]) -> None:
    """Draw the compressor's line, and let the picture be high enough for it."""
    labels = ("xz -9e", "xz after the training text")
    for bits, label in zip(references(runs)["xz"], labels, strict=False):
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, bits - 0.05), max(high, bits + 0.05))
        axes.axhline(bits, color="0.35", lw=0.8, ls="--")
        axes.annotate(
            label, (1, bits), xycoords=("axes fraction", "data"), fontsize=6.5, ha="right", va="bottom"
        )
