"""Scatter charts of a sweep: the result of each run against each key, in coordinates of a picture.

They need no script: `page.html` draws circles. Results far above the others, and runs without one, are at the
top, so that the differences between the good ones can be seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

WIDTH, HEIGHT = 440.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 22.0, 28.0
OUTLIER = 3.0
"""A result is off the scale if it is this many times as far above the best one as the median is."""
LOG_RATIO = 20.0
"""Range of numbers, as a ratio, from which they are drawn on a logarithmic scale."""
JITTER, JITTER_STEPS = 3.0, 5
"""Points of one category are moved aside by this, in turn, so that they do not hide each other."""


@dataclass(frozen=True)
class Point:
    """A run: the values of its keys and its result."""

    values: Mapping[str, Any]
    """Numbers are drawn on a scale, others as categories."""
    result: float | None
    """None: it has none."""
    kind: str
    """Class in the page: "best", "finalist", "complete", "short" (a smaller budget) or "bad"."""
    label: str
    """For a pointer over it."""


@dataclass(frozen=True)
class Dot:
    """A point in the picture."""

    x: float
    y: float
    kind: str
    label: str


@dataclass(frozen=True)
class Tick:
    """A number on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Panel:
    """The chart of one key."""

    key: str
    dots: tuple[Dot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    box: tuple[float, float, float, float] = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
    size: tuple[float, float] = (WIDTH, HEIGHT)


def panels(
    points: Sequence[Point], keys: Sequence[str], log_keys: frozenset[str] = frozenset()
) -> list[Panel]:
    """Return a chart for each key.

    Args:
        log_keys: those that are on a logarithmic scale whatever their range.
    """
    low, high = result_range([point.result for point in points])
    y_ticks = tuple(Tick(_y(value, low, high), f"{value:.3f}") for value in _between(low, high, 4))
    order = {"bad": 0, "short": 1, "complete": 2, "finalist": 3, "best": 4}
    ordered = sorted(points, key=lambda point: order[point.kind])
    found = []
    for key in keys:
        places, x_ticks = _places([point.values[key] for point in ordered], key in log_keys)
        dots = [
            Dot(round(x, 1), round(_y(point.result, low, high), 1), point.kind, point.label)
            for point, x in zip(ordered, places, strict=True)
        ]
        found.append(Panel(key, tuple(dots), x_ticks, y_ticks))
    return found


def result_range(results: Sequence[float | None]) -> tuple[float, float]:
    """Return the lowest result, and the highest one that is not off the scale."""
    finite = sorted(value for value in results if value is not None and math.isfinite(value))
    if not finite:
        return 0.0, 1.0
    low = finite[0]
    limit = low + OUTLIER * (median(finite) - low)
    high = max(value for value in finite if value <= limit)
    return (low, high) if high > low else (low, low + max(1e-3, abs(low) * 1e-3))


def _y(result: float | None, low: float, high: float) -> float:
    if result is None or not result <= high:  # NaN too
        return TOP - 10
    return HEIGHT - BOTTOM - 6 - (result - low) / (high - low) * (HEIGHT - BOTTOM - TOP - 12)


def _places(values: Sequence[Any], is_log: bool) -> tuple[list[float], tuple[Tick, ...]]:
    numbers = [value for value in values if type(value) in (int, float)]
    if len(numbers) < len(values) or len(set(numbers)) < 2:
        return _categories(values)
    low, high = min(numbers), max(numbers)
    is_log = low > 0 and (is_log or high / low >= LOG_RATIO)
    scale = math.log if is_log else float
    places = [_x((scale(n) - scale(low)) / (scale(high) - scale(low))) for n in numbers]
    shown = sorted(set(numbers)) if len(set(numbers)) <= 5 else _between(scale(low), scale(high), 5)
    if is_log and len(set(numbers)) > 5:
        shown = [math.exp(value) for value in shown]
    ticks = [Tick(_x((scale(n) - scale(low)) / (scale(high) - scale(low))), f"{n:.3g}") for n in shown]
    return places, tuple(ticks)


def _categories(values: Sequence[Any]) -> tuple[list[float], tuple[Tick, ...]]:
    names = list(dict.fromkeys(map(str, values)))
    if all(type(value) in (int, float, bool) for value in values):
        names.sort(key=float if not any(isinstance(value, bool) for value in values) else str)
    at = {name: _x((index + 0.5) / len(names)) for index, name in enumerate(names)}
    aside = [(number % JITTER_STEPS - JITTER_STEPS // 2) * JITTER for number in range(len(values))]
    places = [at[str(value)] + move for value, move in zip(values, aside, strict=True)]
    return places, tuple(Tick(place, name) for name, place in at.items())


def _x(part: float) -> float:
    return LEFT + 10 + part * (WIDTH - LEFT - RIGHT - 20)


def _between(low: float, high: float, number: int) -> list[float]:
    return [low + (high - low) * index / (number - 1) for index in range(number)]


def legend(points: Sequence[Point]) -> Iterator[tuple[str, str]]:
    """Yield the kinds of points that are there, each with its meaning."""
    meanings = {
        "best": "the best trial",
        "finalist": "the other finalists",
        "complete": "complete",
        "short": "with a part of the budget",
        "bad": "diverged, failed or refused (at the top)",
    }
    kinds = {point.kind for point in points}
    yield from ((kind, text) for kind, text in meanings.items() if kind in kinds)
