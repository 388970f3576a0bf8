"""The numbers and tables of a report, as texts for the page."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from transformerlm.data.mixture import pass_size
from transformerlm.logging import Sample, names
from transformerlm.logging.history import END, ERROR, START, STOP
from transformerlm.report.run import Run, Text
from transformerlm.report.text import count, cut, duration, num_bytes, token_text


class Figure(NamedTuple):
    """A number at the top of the page."""

    label: str
    value: str
    note: str = ""


class Bar(NamedTuple):
    """A line of the comparison in bits per byte."""

    label: str
    value: str
    percent: float
    """Length relative to the longest."""
    kind: str
    """"model", "other" or "range"."""
    from_percent: float = 0.0
    """Begin of a range."""


def state(run: Run) -> str:
    """Return in a few words whether the run has ended."""
    last = run.history[-1] if run.history else {}
    step = f"{run.metrics.last_step:,}"
    if last.get("event") == END or (not run.history and run.facts.get("is_complete") is True):
        return f"complete, {step} steps"
    if last.get("event") == STOP:
        return f"stopped after {int(last['step']):,} steps; the command that began it goes on"
    if last.get("event") == ERROR:
        return f"ended by an error after {int(last['step']):,} steps"
    return f"{step} steps logged so far" if run.metrics.last_step else "no step logged yet"


def subtitle(run: Run) -> str:
    """Return one line: the text, the day of the last start, the state."""
    corpus = " + ".join(path.rstrip("/").rpartition("/")[2] for path in run.corpora)
    day = str(run.facts.get("time", ""))[:10]
    return " · ".join(filter(None, [corpus, day, state(run)]))


def best_bits(run: Run) -> tuple[int, float] | None:
    """Return step and bits per byte of the best validation."""
    return run.metrics[names.VAL_BITS_PER_BYTE].lowest


def key_figures(run: Run) -> list[Figure]:
    """Return the numbers at the top of a run's page; those that are not known are left out."""
    found = [_model(run), _text(run), _trained(run), _time(run), _speed(run), _perplexity(run)]
    return [figure for figure in found if figure]


def _model(run: Run) -> Figure | None:
    parameters, layers, width = run.facts.get("parameters"), *(_sizes(run))
    if not isinstance(parameters, int):
        return None
    context = run.setting("model", "context_length")
    note = f"{layers} layers of width {width}, context {context}" if layers else ""
    return Figure("Model", f"{count(parameters)} parameters", note)


def _sizes(run: Run) -> tuple[Any, Any]:
    return run.setting("model", "num_layers"), run.setting("model", "d_model")


def _text(run: Run) -> Figure | None:
    if (train := run.train) is None:
        return None
    documents = f"{train.documents:,} document{'s' if train.documents != 1 else ''}"
    return Figure("Text", num_bytes(train.num_bytes), f"{documents}, {count(train.tokens)} tokens")


def _trained(run: Run) -> Figure | None:
    tokens = run.metrics[names.TOKENS].finite
    if not len(tokens):
        return None
    done, passes = tokens.values[-1], ""
    if run.train and run.train.tokens:
        passes = f"{done / pass_tokens(run, run.train):.3g} passes over the text"
    return Figure("Trained on", f"{count(done)} tokens", passes)


def pass_tokens(run: Run, text: Text) -> float:
    """Return the tokens of a pass: all, or of a mixture fewer (`transformerlm.data.mixture.pass_size`)."""
    mixture = {corpus.name: corpus for corpus in run.mixture if corpus.text.tokens}
    shares = {name: corpus.share for name, corpus in mixture.items()}
    sizes = {name: corpus.text.tokens for name, corpus in mixture.items()}
    return pass_size(shares, sizes) if shares else text.tokens


def mixture_rows(run: Run) -> list[list[str]]:
    """Return the table of a mixture: a row for each corpus."""
    step, rows = (best_bits(run) or (run.metrics.last_step, 0.0))[0], []
    for corpus in run.mixture:
        drawn = run.metrics[names.of_corpus(names.TOKENS, corpus.name)].finite
        bits = run.metrics[names.of_corpus(names.VAL_BITS_PER_BYTE, corpus.name)].finite
        own = bits.values[bits.steps == step]
        tokens, size = float(drawn.values[-1]) if len(drawn) else math.nan, corpus.text.tokens
        rows.append(
            [
                corpus.name,
                f"{corpus.share:.1%}",
                f"{corpus.text.documents:,}",
                f"{corpus.text.num_bytes:,}",
                f"{size:,}",
                count(tokens),
                f"{tokens / size:.3g}" if size and math.isfinite(tokens) else "–",
                f"{own[-1]:.3f}" if len(own) else "–",
            ]
        )
    return rows


def _time(run: Run) -> Figure | None:
    spent = seconds_spent(run)
    if not spent:
        return None
    return Figure("Time", duration(sum(spent.values())), str(run.facts.get("device", "")).partition(" (")[0])


def _speed(run: Run) -> Figure | None:
    rate, mfu = run.metrics[names.TOKENS_PER_SECOND].finite, run.metrics[names.MFU].finite
    if not len(rate):
        return None
    note = f"{np.median(mfu.values):.0%} of the measured peak" if len(mfu) else ""
    return Figure("Speed", f"{count(float(np.median(rate.values)))} tokens/s", note)


def _perplexity(run: Run) -> Figure | None:
    if (found := run.metrics[names.VAL_LOSS].lowest) is None:
        return None
    perplexity = math.exp(found[1]) if found[1] < 700 else math.inf
    return Figure("Validation loss", f"{found[1]:.3f}", f"perplexity {perplexity:.3g} per token")


def seconds_spent(run: Run) -> dict[str, float]:
    """Return the seconds by kind of work; only those of the steps where a run has not ended properly."""
    last = run.history[-1] if run.history else run.facts  # the checkpoint's, of a run without a history
    clock = last.get("clock")
    found: dict[str, float] = {}
    for kind, spent in clock.items() if isinstance(clock, dict) else ():
        if isinstance(spent, list) and spent and isinstance(spent[0], int | float):
            found[str(kind)] = float(spent[0])
    if not found and len(steps := run.metrics[names.TOKENS].steps):
        found = {"steps": float(run.metrics.seconds_at(steps[-1:])[0])}
    return {kind: seconds for kind, seconds in found.items() if math.isfinite(seconds)}


COST_LABELS = {
    "starting": "starting, compiling",
    "first steps": "the first steps",
    "steps": "steps",
    "data": "waiting for data",
    "validating": "validating",
    "saving": "saving",
    "sampling": "samples on the way",
}


def cost(run: Run) -> list[tuple[str, str]]:
    """Return what the model took: time by kind of work, and processor time."""
    spent = seconds_spent(run)
    rows = [(COST_LABELS.get(kind, kind), duration(seconds)) for kind, seconds in spent.items() if seconds]
    if len(spent) > 1:
        rows.append(("in all", duration(sum(spent.values()))))
    return rows


def comparison(run: Run) -> list[Bar]:
    """Return the model's bits per byte beside those of the compressor and those that were expected."""
    best = best_bits(run)
    rows = [("this model", best[1], "model")] if best else []
    labels = ("xz -9e", "xz after the training text")
    rows += [("with n-grams", run.ngram_bits, "other")] if run.ngram_bits else []
    rows += [(label, bits, "other") for label, bits in zip(labels, run.xz, strict=False)]
    longest = max([bits for _, bits, _ in rows] + [run.expected[2] if run.expected else 0.0], default=0.0)
    if not best or not longest > 0:
        return []
    rows[1:] = sorted(rows[1:], key=lambda row: row[1])
    bars = [Bar(label, f"{bits:.3f}", 100 * bits / longest, kind) for label, bits, kind in rows]
    if run.expected:
        value, low, high = run.expected
        text = f"{value:.2f} ({low:.2f} to {high:.2f})"
        bars.insert(1, Bar("expected", text, 100 * high / longest, "range", 100 * low / longest))
    return bars


def verdict(run: Run) -> str:
    """Return how the model compares with the compressor and with what was expected, in a sentence or two."""
    if (best := best_bits(run)) is None:
        return ""
    words = []
    if run.xz:
        other, after = run.xz[-1], " that has read the training text" if len(run.xz) > 1 else ""
        how = f"{abs(1 - best[1] / other):.0%} {'fewer' if best[1] < other else 'more'}"
        words.append(f"{how} than the compressor xz{after} needs.")
    if run.expected:
        _, low, high = run.expected
        place = "Within" if low <= best[1] <= high else "Better than" if best[1] < low else "Worse than"
        words.append(f"{place} the range that was expected.")
    return " ".join(words)


def data_rows(run: Run) -> list[list[str]]:
    """Return the table of the data: a row for each part of the text."""
    return [
        _data_row(label, text) for label, text in (("to train on", run.train), ("held out", run.val)) if text
    ]


def _data_row(label: str, text: Text) -> list[str]:
    ratio = f"{text.num_bytes / text.tokens:.2f}" if text.tokens else "–"
    return [label, f"{text.documents:,}", f"{text.num_bytes:,}", f"{text.tokens:,}", ratio]


def longest_tokens(run: Run) -> list[str]:
    """Return the longest tokens of the vocabulary, white space as symbols."""
    return [cut(token_text(token), 60) for token in run.longest_tokens]


def environment_rows(run: Run) -> list[tuple[str, str]]:
    """Return device and versions."""
    found = run.facts.get("environment")
    rows = [("device", str(run.facts["device"]))] if "device" in run.facts else []
    return (
        rows + [(str(key), str(value)) for key, value in found.items()] if isinstance(found, dict) else rows
    )


def write_command(run: Run) -> str:
    """Return the command that writes more text with the model."""
    return f"transformerlm-infer --infer.checkpoint={shlex.quote(str(run.path))}"


LATER = ("run_dir", "run_name")
"""Keys that differ between any two runs."""


def differing_settings(runs: Sequence[Run]) -> list[list[str]]:
    """Return a row for each key whose value is not the same in all configs: its name, and a value per run."""
    settings = [_flat(run.config) for run in runs]
    keys = dict.fromkeys(key for values in settings for key in values)
    rows = []
    for key in keys:
        values = [_shown(values.get(key)) for values in settings]
        if len(set(values)) > 1 and key.rpartition(".")[2] not in LATER:
            rows.append([key, *values])
    return rows


def config_tables(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the run's config: for each table its keys and values."""
    return [
        (table, [(key, cut(_shown(value), 400)) for key, value in values.items()])
        for table, values in run.config.items()
        if isinstance(values, dict)
    ]


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    tables = ((table, values) for table, values in config.items() if isinstance(values, dict))
    return {f"{table}.{key}": value for table, values in tables for key, value in values.items()}


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def runs_table(runs: Sequence[Run]) -> list[list[str]]:
    """Return a row for each run: bits per byte, validation loss, parameters, steps, tokens, time."""
    return [_run_row(run) for run in runs]


def _run_row(run: Run) -> list[str]:
    parameters, best = run.facts.get("parameters"), best_bits(run)
    loss, tokens = run.metrics[names.VAL_LOSS].lowest, run.metrics[names.TOKENS].finite
    spent = seconds_spent(run)
    return [
        f"{best[1]:.3f}" if best else "–",
        f"{loss[1]:.3f}" if loss else "–",
        count(parameters) if isinstance(parameters, int) else "–",
        f"{run.metrics.last_step:,}",
        count(float(tokens.values[-1])) if len(tokens) else "–",
        duration(sum(spent.values())) if spent else "–",
    ]


class Writing(NamedTuple):
    """The samples of one step."""

    step: int
    samples: list[tuple[str, str]]
    """Prompt and continuation."""


MAX_STEPS, MAX_SAMPLES, MAX_LENGTH, MAX_LAST_LENGTH = 12, 6, 600, 3000
"""Limits of the time line: steps, samples of a step, characters of a sample, and of one of the last step."""


def time_line(samples: Iterable[Sample]) -> list[Writing]:
    """Return the samples by step, the newest first; of many steps some, evenly spread."""
    by_step: dict[int, list[Sample]] = {}
    for sample in samples:
        by_step.setdefault(sample.step, []).append(sample)
    steps = sorted(by_step)
    chosen = np.linspace(0, len(steps) - 1, min(MAX_STEPS, len(steps))).round().astype(int).tolist()
    return [
        Writing(
            steps[index],
            [_shortened(sample, is_last=number == 0) for sample in by_step[steps[index]][:MAX_SAMPLES]],
        )
        for number, index in enumerate(reversed(chosen))
    ]


def _shortened(sample: Sample, *, is_last: bool) -> tuple[str, str]:
    length = MAX_LAST_LENGTH if is_last else MAX_LENGTH
    text = sample.text if sample.prompt else sample.text.lstrip("\n")
    return cut(sample.prompt, 300), cut(text, length)


def started(run: Run) -> str:
    """Return when the run was started first, and how often it went on."""
    starts = [record for record in run.history if record.get("event") == START]
    if not starts:
        return ""
    again = f", continued {len(starts) - 1} time{'s' if len(starts) > 2 else ''}" if starts[1:] else ""
    return f"{str(starts[0].get('time', ''))[:16].replace('T', ' ')} UTC{again}"
