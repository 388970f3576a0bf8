"""The result of transformerlm-eval as a table to read, a record for a logger, and lines for a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from transformerlm.logging import names
from transformerlm.logging.base import Value
from transformerlm.storage.files import committed_file

if TYPE_CHECKING:
    from transformerlm.evaluation.compare import Evaluation, ScoredModel
    from transformerlm.evaluation.statistics import Difference, DocumentScores, Estimate, Perplexity

WITHOUT_LEAKS = "without leaks"


def table(evaluation: Evaluation) -> Iterator[str]:
    """Return lines of text: one per model and one for the difference."""
    found = evaluation.first.scores
    yield f"{evaluation.text}: {len(found):,} documents, {found.num_bytes.sum():,} bytes"
    rows = [["", "tokens", "loss", "perplexity", "bits per byte"]]
    rows += [_row(one.name, one.scores) for one in (evaluation.first, evaluation.second) if one]
    if found.without_leaks:
        rows.append(_row(WITHOUT_LEAKS, found.without_leaks))
    if evaluation.difference:
        rows.append(_difference_row(evaluation.difference))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if len(found) > 1:
        yield f"loss in nats per token; ± one standard error over {len(found):,} documents; 95 % intervals"
    else:
        yield "loss in nats per token; one document, from which no standard error can be told"
    if found.without_leaks:
        yield _leaked(found, found.without_leaks)
    if evaluation.difference:
        yield from _verdict(evaluation)


def _row(name: str, scores: DocumentScores) -> list[str]:
    if not scores.num_tokens.any() or not scores.num_bytes.any():
        return [name, "0", "", "", ""]
    numbers = [_shown(scores.loss), _interval(scores.perplexity, 2), _shown(scores.bits_per_byte)]
    return [name, f"{scores.num_tokens.sum():,}", *numbers]


def _leaked(scores: DocumentScores, without: DocumentScores) -> str:
    # Imported only now: numpy takes a moment, and --help imports this module.
    from transformerlm.data.matches import MIN_LEAK_TOKENS

    num_bytes, kept = int(scores.num_bytes.sum()), int(without.num_bytes.sum())
    share = (num_bytes - kept) / num_bytes if num_bytes else 0.0
    what = f"{num_bytes - kept:,} of {num_bytes:,} bytes ({share:.2%}) stand in the text that the model was"
    return f"{what} trained on, in runs of at least {MIN_LEAK_TOKENS} tokens; {WITHOUT_LEAKS}: all others"


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


def _verdict(evaluation: Evaluation) -> Iterator[str]:
    found = evaluation.difference
    assert found
    assert evaluation.second
    if found.loss is None:
        yield "the two count different tokens: loss and perplexity cannot be compared, bits per byte can"
    errors = abs(found.bits_per_byte.num_standard_errors)
    if not math.isnan(errors):
        better = "first" if found.bits_per_byte.value < 0 else "second"
        yield f"the {better} needs fewer bits, by {errors:.1f} standard errors of the difference"
    is_one_model = evaluation.first.checkpoint.path == evaluation.second.checkpoint.path
    if is_one_model and evaluation.first.weights != evaluation.second.weights:
        yield _cost(evaluation.first, evaluation.second, found)


def _cost(first: ScoredModel, second: ScoredModel, found: Difference) -> str:
    """Return what the second model's storage costs, in percent of the first one's bits."""
    percent = -100 / first.scores.bits_per_byte.value
    cost = f"{percent * found.bits_per_byte.value:+.3f} %"
    if not math.isnan(found.bits_per_byte.standard_error):
        cost += f" ± {abs(percent) * found.bits_per_byte.standard_error:.3f} %"
    return f"{second.weights or 'float32'} instead of {first.weights or 'float32'}: {cost} bits per byte"


def record(evaluation: Evaluation) -> dict[str, Value]:
    """Return the result under the keys of `logging.names`."""
    values = _values(evaluation)
    if evaluation.second and evaluation.difference:
        values |= _comparison_values(evaluation.second, evaluation.difference)
    return values


def _values(evaluation: Evaluation) -> dict[str, Value]:
    scores = evaluation.first.scores
    loss, perplexity, bits_per_byte = scores.loss, scores.perplexity, scores.bits_per_byte
    values: dict[str, Value] = {
        names.CHECKPOINT: evaluation.first.name,
        names.TEXT: evaluation.text,
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
    without = scores.without_leaks
    if without:
        values[names.EVAL_LEAKED_BYTES] = int(scores.num_bytes.sum() - without.num_bytes.sum())
        if without.num_bytes.any():
            values[names.EVAL_BITS_PER_BYTE_WITHOUT_LEAKS] = without.bits_per_byte.value
    return values


def _comparison_values(second: ScoredModel, found: Difference) -> dict[str, Value]:
    values: dict[str, Value] = {
        names.COMPARED_WITH: second.name,
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


def document_lines(evaluation: Evaluation) -> Iterator[str]:
    """Yield a line of JSON per document: number, file, bytes; tokens and nats of each model."""
    first, second = evaluation.first.scores, evaluation.second.scores if evaluation.second else None
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


def write_documents(evaluation: Evaluation, path: Path) -> Path:
    """Write `document_lines` to a file, completely or not at all; return its path."""
    with committed_file(path) as file:
        file.writelines(line.encode() for line in document_lines(evaluation))
    return path
