"""Rows of bench_own_text: a record for each, and an aligned table in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarking.own_text_cells import Result
from transformerlm.logging import names
from transformerlm.logging.base import Value

PEERS = ("PPMd", "xz", "nanoGPT")
HEADER = (
    *("text", "time", "vocabulary", "width x depth", "context", "parameters", "steps", "passes"),
    *("expected", "interval", "got", "overlapped", "with memory", "within", "seconds"),
    *(*PEERS, "best of grid", "ratio"),
)
NOTHING = "-"
"""Cell of a table where nothing is known."""


@dataclass(frozen=True)
class Row:
    """Results for a text and a time; `ours` is None if our training has failed."""

    text: str
    time: str
    ours: Result | None
    peers: Mapping[str, Result] = field(default_factory=dict)
    """Name, one of PEERS -> what it reached."""
    grid: Mapping[str, Result] = field(default_factory=dict)
    """Overrides of a hand-made config -> what it reached."""

    @property
    def is_within(self) -> bool | None:
        """True if the result lies in the interval that was expected; None if nothing was expected."""
        if self.ours is None or "expected" not in self.ours:
            return None
        return bool(self.ours["low"] <= self.ours["bits_per_byte"] <= self.ours["high"])

    @property
    def best(self) -> str | None:
        """Overrides of the best hand-made config; None without a grid."""
        return min(self.grid, key=lambda name: float(self.grid[name]["bits_per_byte"]), default=None)

    @property
    def ratio(self) -> float | None:
        """Bits per byte of what was chosen, over those of the best hand-made config."""
        if self.ours is None or self.best is None:
            return None
        return float(self.ours["bits_per_byte"] / self.grid[self.best]["bits_per_byte"])


OWN_KEYS = {
    **{name: f"bench.{name}" for name in ("vocab_size", "d_model", "num_layers", "context_length")},
    **{name: f"bench.{name}" for name in ("batch_size", "num_parameters", "steps", "passes", "seconds")},
    "bits_per_byte": names.VAL_BITS_PER_BYTE,
    "overlapped": names.EVAL_BITS_PER_BYTE,
    "with_memory": "bench.bits_per_byte_with_memory",
    "expected": "bench.expected_bits_per_byte",
    "low": "bench.expected_low",
    "high": "bench.expected_high",
}
"""Member of our result -> key of the record."""


def record(row: Row) -> dict[str, Value]:
    """Return the record of a row; what is not known is left out."""
    ours, best = row.ours or {}, row.best
    peers = {
        f"bench.{name.lower()}_{member}": value
        for name, peer in row.peers.items()
        for member, value in peer.items()
    }
    found: dict[str, Value | None] = {
        "bench.text": row.text,
        "bench.time": row.time,
        **{key: ours.get(name) for name, key in OWN_KEYS.items()},
        "bench.is_within_expected": row.is_within,
        **peers,
        "bench.grid_best": best,
        "bench.grid_size": len(row.grid) or None,
        "bench.grid_best_bits_per_byte": row.grid[best]["bits_per_byte"] if best else None,
        "bench.chosen_to_best": row.ratio,
    }
    return {key: value for key, value in found.items() if value is not None}


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a table in Markdown with aligned columns."""
    lines = [HEADER, *(tuple(columns(row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    for number, line in enumerate(lines):
        yield f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        if not number:
            yield f"|{'|'.join('-' * (width + 2) for width in widths)}|"


def columns(row: Row) -> Iterator[str]:
    """Yield the cells of a row."""
    ours = row.ours
    yield from (row.text, row.time)
    yield from own_columns(row, ours) if ours else (NOTHING,) * 13
    for peer in (*map(row.peers.get, PEERS), row.grid[row.best] if row.best else None):
        yield f"{peer['bits_per_byte']:.3f}" if peer else NOTHING
    yield f"{row.ratio:.3f}" if row.ratio else NOTHING


def own_columns(row: Row, ours: Result) -> Iterator[str]:
    """Yield what is known of our own training."""
    yield f"{ours['vocab_size']:,}"
    yield f"{ours['d_model']} x {ours['num_layers']}"
    yield str(ours["context_length"])
    yield f"{ours['num_parameters'] / 1e6:.2f} M"
    yield f"{ours['steps']:,}"
    yield f"{ours['passes']:.1f}"
    yield f"{ours['expected']:.3f}" if "expected" in ours else NOTHING
    yield f"{ours['low']:.2f} to {ours['high']:.2f}" if "expected" in ours else NOTHING
    yield f"{ours['bits_per_byte']:.3f}"
    for name in ("overlapped", "with_memory"):
        yield f"{ours[name]:.3f}" if name in ours else NOTHING
    yield {True: "yes", False: "no", None: NOTHING}[row.is_within]
    yield f"{ours['seconds']:.1f}"


def verdict(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line on how often the expected interval held, if anything was expected."""
    known = [row.is_within for row in rows if row.is_within is not None]
    if known:
        yield f"the interval held in {sum(known)} of {len(known)}"
