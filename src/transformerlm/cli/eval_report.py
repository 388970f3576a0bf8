"""What transformerlm-eval says of its numbers: a table to read, a record for a logger, lines for a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from transformerlm.logging import names
from transformerlm.logging.base import Value

if TYPE_CHECKING:
    from transformerlm.checkpoint.store import Checkpoint
    from transformerlm.evaluation.statistics import Difference, DocumentScores, Estimate, Perplexity


class Scored(NamedTuple):
    """A model, and what it needs for each document."""

    checkpoint: Checkpoint
    tokens: tuple[str, int | None]
    """Fingerprint of the tokenizer, and the id that ends a document; where these agree, so do the tokens."""
    scores: DocumentScores


class Outcome(NamedTuple):
    """What came of an evaluation."""

    text: str
    first: Scored
    second: Scored | None
    difference: Difference | None
    """First minus second."""


def table(outcome: Outcome) -> Iterator[str]:
    """The outcome as lines of text, one a model and one for the difference."""
    found = outcome.first.scores
    yield f"{outcome.text}: {len(found):,} documents, {found.num_bytes.sum():,} bytes"
    rows = [["", "tokens", "loss", "perplexity", "bits per byte"]]
    rows += [_row(scored) for scored in (outcome.first, outcome.second) if scored]
    if outcome.difference:
        rows.append(_difference_row(outcome.difference))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if len(found) > 1:
        yield f"loss in nats per token; ± one standard error over {len(found):,} documents; 95 % intervals"
    else:
        yield "loss in nats per token; one document, from which no standard error can be told"
    if outcome.difference:
        yield from _verdict(outcome.difference)


def _row(scored: Scored) -> list[str]:
    scores = scored.scores
    numbers = [_shown(scores.loss), _interval(scores.perplexity, 2), _shown(scores.bits_per_byte)]
    return [str(scored.checkpoint.path), f"{scores.num_tokens.sum():,}", *numbers]


def _difference_row(found: Difference) -> list[str]:
    loss = _shown(found.loss, "+") if found.loss else ""
    factor = f"x {_interval(found.perplexity_factor, 4)}" if found.perplexity_factor else ""
    return ["first - second", "", loss, factor, _shown(found.bits_per_byte, "+")]


def _shown(estimate: Estimate, sign: str = "") -> str:
    value = f"{estimate.value:{sign}.4f}"
    return value if math.isnan(estimate.standard_error) else f"{value} ± {estimate.standard_error:.4f}"


def _interval(perplexity: Perplexity, digits: int) -> str:
    value, low, high = (
        f"{number:.{digits}f}" for number in (perplexity.value, perplexity.low, perplexity.high)
    )
    return value if math.isnan(perplexity.low) else f"{value} ({low} to {high})"


def _verdict(found: Difference) -> Iterator[str]:
    if found.loss is None:
        yield "the two count different tokens: loss and perplexity cannot be compared, bits per byte can"
    errors = abs(found.bits_per_byte.num_standard_errors)
    if not math.isnan(errors):
        better = "first" if found.bits_per_byte.value < 0 else "second"
        yield f"the {better} needs fewer bits, by {errors:.1f} standard errors of the difference"


def record(outcome: Outcome) -> dict[str, Value]:
    """The outcome under the keys of `logging.names`."""
    values = _values(outcome)
    if outcome.second and outcome.difference:
        values |= _comparison_values(outcome.second, outcome.difference)
    return values


def _values(outcome: Outcome) -> dict[str, Value]:
    scores = outcome.first.scores
    loss, perplexity, bits_per_byte = scores.loss, scores.perplexity, scores.bits_per_byte
    return {
        names.CHECKPOINT: str(outcome.first.checkpoint.path),
        names.TEXT: outcome.text,
        names.EVAL_DOCUMENTS: len(scores),
        names.EVAL_BYTES: int(scores.num_bytes.sum()),
        names.EVAL_TOKENS: int(scores.num_tokens.sum()),
        names.EVAL_LOSS: loss.value,
        names.EVAL_LOSS_ERROR: loss.standard_error,
        names.EVAL_PERPLEXITY: perplexity.value,
        names.EVAL_PERPLEXITY_LOW: perplexity.low,
        names.EVAL_PERPLEXITY_HIGH: perplexity.high,
        names.EVAL_BITS_PER_BYTE: bits_per_byte.value,
        names.EVAL_BITS_PER_BYTE_ERROR: bits_per_byte.standard_error,
    }


def _comparison_values(second: Scored, found: Difference) -> dict[str, Value]:
    values: dict[str, Value] = {
        names.COMPARED_WITH: str(second.checkpoint.path),
        names.COMPARED_TOKENS: int(second.scores.num_tokens.sum()),
        names.COMPARED_LOSS: second.scores.loss.value,
        names.COMPARED_PERPLEXITY: second.scores.perplexity.value,
        names.COMPARED_BITS_PER_BYTE: second.scores.bits_per_byte.value,
        names.BITS_PER_BYTE_DIFFERENCE: found.bits_per_byte.value,
        names.BITS_PER_BYTE_DIFFERENCE_ERROR: found.bits_per_byte.standard_error,
    }
    if found.loss:
        values[names.LOSS_DIFFERENCE] = found.loss.value
        values[names.LOSS_DIFFERENCE_ERROR] = found.loss.standard_error
    return values


def document_lines(outcome: Outcome) -> Iterator[str]:
    """A line of JSON a document: its number, file, bytes; tokens and nats; and those of the other model."""
    first, second = outcome.first.scores, outcome.second.scores if outcome.second else None
    for number, path in enumerate(first.paths):
        values: dict[str, Value] = {
            "document": number,
            "file": path,
            "bytes": int(first.num_bytes[number]),
            "tokens": int(first.num_tokens[number]),
            "nats": float(first.nats[number]),
        }
        if second:
            values["compared_tokens"] = int(second.num_tokens[number])
            values["compared_nats"] = float(second.nats[number])
        yield json.dumps(values) + "\n"
