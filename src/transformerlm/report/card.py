"""The model card: the README.md of an exported folder, as Hugging Face's Hub reads it.

`model_card` is a function of a run and a model alone. What is not known of a run is left out, or said where a
reader would look for it. `card_source.py` collects what is known, `card.md` is the text.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from transformerlm.logging import Sample
from transformerlm.report import figures, markdown
from transformerlm.report.card_config import CONFIG_NOTE, HEAD_TABLES, public_config, public_path, toml
from transformerlm.report.run import Run
from transformerlm.report.text import count, cut, duration

MAX_SAMPLES, MAX_LENGTH, MAX_WIDGET_LENGTH = 4, 1000, 300
"""Samples that are shown, and the characters of each, in the text and in the head."""
SMALL_PARAMETERS = 10**9
"""Parameters below which a model's texts cannot be expected to hang together."""
Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class Quality:
    """Quality of a model on the text that was held out."""

    bits_per_byte: float | None
    perplexity: float | None
    """Per token."""
    interval: tuple[float, float] | None
    """95 % interval of the bits per byte."""
    note: str
    """How the interval was found, or why there is none."""


@dataclass(frozen=True)
class CardModel:
    """The model that a card is about."""

    name: str
    architecture: str
    """Class of transformers."""
    parameters: int
    step: int
    dtype: str
    """Of the weights in the folder."""
    quality: Quality
    identity: Mapping[str, Any]
    """Checksums of the tokens and of the tokenizer that it was trained with, as its checkpoint has them."""
    imported_from: str | None = None
    license: str | None = None


def model_card(run: Run, model: CardModel) -> str:
    """Return the card of a model: a head in YAML, then Markdown.

    Args:
        run: what is known of the model's training; its config is that of the model's checkpoint.
        model: the model.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=False,  # every text passes the filter of its place
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {name: getattr(markdown, name) for name in ("plain", "code", "block", "yaml")}
    template = resources.files("transformerlm.report").joinpath("card.md").read_text("utf-8")
    return environment.from_string(template).render(**head(run, model), **body(run, model))


def head(run: Run, model: CardModel) -> dict[str, Any]:
    """Return the values of the card's head."""
    return {
        "name": model.name,
        "license": model.license,
        "tags": ["transformerlm", model.architecture.removesuffix("ForCausalLM").lower()],
        "dataset": {"type": _slug(corpus(run)), "name": corpus(run), "split": "validation"},
        "metrics": metrics(model.quality),
        "widget": [_widget(sample) for sample in last_samples(run, model.step) if sample.prompt.strip()],
        "details": {
            "data": data_details(run, model),
            "config": {table: public_config(run.config).get(table, {}) for table in HEAD_TABLES},
            "environment": dict(environment_rows(run)),
        },
    }


def metrics(quality: Quality) -> list[dict[str, Any]]:
    """Return the metrics as in a model-index."""
    found: list[dict[str, Any]] = []
    if quality.bits_per_byte is not None:
        found.append(
            {
                "type": "bits_per_byte",
                "name": "bits per byte of held-out text",
                "value": round(quality.bits_per_byte, 4),
            }
        )
        if quality.interval:
            low, high = (round(end, 4) for end in quality.interval)
            found[0]["args"] = {"low": low, "high": high, "confidence": 0.95}
    if quality.perplexity is not None:
        value = float(f"{quality.perplexity:.5g}")
        found.append({"type": "perplexity", "name": "perplexity per token", "value": value})
    return found


def data_details(run: Run, model: CardModel) -> dict[str, Any]:
    """Return what is known of the data, as values."""
    parts = {"train": run.train, "validation": run.val}
    numbers = {
        name: {"documents": text.documents, "bytes": text.num_bytes, "tokens": text.tokens}
        for name, text in parts.items()
        if text
    }
    shares = {own.name: own.share for own in run.mixture}
    mixture = {"mixture": shares} if shares else {}
    return {"name": corpus(run), "split": split(run), **mixture, **numbers, **_checksums(model)}


def _checksums(model: CardModel) -> dict[str, str]:
    """Return the checksums of tokens and tokenizer by a name for each."""
    names = {"train data": "train_sha256", "val data": "validation_sha256"}
    found = {}
    for key, value in model.identity.items():
        split, of, corpus = key.partition(" of ")
        if split in names or key == "tokenizer":
            found[f"{names.get(split, key)}{of}{corpus}"] = str(value)
    return found


def body(run: Run, model: CardModel) -> dict[str, Any]:
    """Return the values of the card's text."""
    samples = last_samples(run, model.step)
    return {
        "summary": summary(run, model),
        "python": python_example(run, model),
        "shell": shell_example(run, model),
        "data": figures.data_rows(run),
        "mixture": figures.mixture_rows(run),
        "data_notes": data_notes(run, model),
        "quality_rows": quality_rows(run, model.quality),
        "interval_note": model.quality.note,
        "training": training_rows(run, model),
        "config": toml(run.config),
        "config_note": CONFIG_NOTE,
        "environment": environment_rows(run),
        "samples": [_shown(sample) for sample in samples],
        "sampled_at": f"after step {samples[0].step:,}" if samples else "",
        "limits": limits(run, model),
    }


def corpus(run: Run) -> str:
    """Return the name of the text, of a mixture those of its corpora, without the folders in front."""
    return " + ".join(map(public_path, run.corpora)) or "not known"


def chosen_files(run: Run) -> str:
    """Return which files of the corpus were read, if they were not all: ` (only files *.md)`."""
    patterns = run.setting("data", "include")
    if not isinstance(patterns, list) or "*" in patterns:
        return ""
    return f" (only files {', '.join(map(str, patterns))})"


def _slug(name: str) -> str:
    words = "".join(letter if letter.isalnum() else " " for letter in name).split()
    return "-".join(words).lower() or "text"


def summary(run: Run, model: CardModel) -> str:
    """Return what the model is, in a sentence or two."""
    what = f"A language model of {model.parameters:,} parameters ({model.architecture})"
    if model.imported_from is not None:
        return f"{what}, imported from {public_path(model.imported_from)} by transformerlm."
    start = run.setting("training", "start_from")
    begun = f"from the weights of {public_path(str(start))} on" if start else "from scratch on"
    words = [f"{what}, trained {begun} {corpus(run)}{chosen_files(run)} by transformerlm."]
    if bits := _bits(model.quality):
        words.append(f"Bits per byte of text that was held out from training: {bits}.")
    return " ".join(words)


def _bits(quality: Quality) -> str:
    if quality.bits_per_byte is None:
        return ""
    interval = quality.interval
    ends = f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    return f"{quality.bits_per_byte:.3f}{ends}"


def python_example(run: Run, model: CardModel) -> str:
    """Return a program that continues a prompt with transformers."""
    prompt, name = markdown.yaml(first_prompt(run)), markdown.yaml(model.name)
    return f"""from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({name})
model = AutoModelForCausalLM.from_pretrained({name})
inputs = tokenizer({prompt}, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=100)
print(tokenizer.decode(output[0]))
"""


def shell_example(run: Run, model: CardModel) -> str:
    """Return the commands that continue a prompt with this package."""
    folder, run_dir, prompt = map(shlex.quote, (model.name, f"runs/{model.name}-imported", first_prompt(run)))
    return f"""transformerlm-import --from {folder} {run_dir}
transformerlm-infer --infer.checkpoint={run_dir} --prompt {prompt}
"""


def first_prompt(run: Run) -> str:
    """Return a prompt that is of the model's kind of text, on one line."""
    found = run.setting("generation", "prompts")
    prompts = [text for text in found if isinstance(text, str)] if isinstance(found, list) else []
    return next((cut(text, 200) for text in prompts if text.strip() and text.isprintable()), "The")


def data_notes(run: Run, model: CardModel) -> Rows:
    """Return what else is known of the text: its files, the split, checksums."""
    rows = [("text", corpus(run) + chosen_files(run)), ("held out", split(run))]
    text = run.facts.get("text")
    rows += [(str(key), str(value)) for key, value in text.items()] if isinstance(text, dict) else []
    labels = {
        "train_sha256": "SHA-256 of the tokens",
        "validation_sha256": "SHA-256 of the held-out tokens",
        "tokenizer": "fingerprint of the tokenizer",
    }
    for name, value in _checksums(model).items():
        kind, of, own = name.partition(" of ")
        rows.append((labels[kind] + of + own, value))
    return rows


def split(run: Run) -> str:
    """Return how text was held out for validation."""
    other, fraction = run.setting("data", "validation_corpus"), run.setting("data", "validation_fraction")
    if other:
        return f"a text of its own, {public_path(str(other))}"
    if not isinstance(fraction, int | float):
        return "not known"
    if not fraction:
        return "nothing"
    how = {"document": "by a hash of each document", "tail": "the end of the text"}
    auto = f"{how['document']}, or of fewer than 20 documents {how['tail']}"
    return (
        f"{100 * fraction:.3g} % of the text, {how.get(str(run.setting('data', 'validation_split')), auto)}"
    )


def quality_rows(run: Run, quality: Quality) -> Rows:
    """Return the quality on the held-out text, beside that of a compressor and what was expected."""
    rows = [("bits per byte", bits)] if (bits := _bits(quality)) else []
    if quality.perplexity is not None:
        rows.append(("perplexity per token", f"{quality.perplexity:.4g}"))
    labels = ("bits per byte of xz -9e", "bits per byte of xz -9e after the training text")
    rows += [(label, f"{value:.3f}") for label, value in zip(labels, run.xz, strict=False)] if rows else []
    if rows and run.expected:
        value, low, high = run.expected
        rows.append(("bits per byte expected before training", f"{value:.3f} ({low:.2f} to {high:.2f})"))
    return rows


def training_rows(run: Run, model: CardModel) -> Rows:
    """Return the short table of the training: sizes, steps, tokens, passes, time, the main settings."""
    rows = [("parameters", f"{model.parameters:,}"), ("weights here", model.dtype)]
    rows += [("steps", f"{model.step:,}")] if model.imported_from is None else []
    size, length = run.setting("training", "batch_size"), run.setting("model", "context_length")
    if model.imported_from is None and isinstance(size, int) and isinstance(length, int):
        rows += _tokens_rows(run, model.step * size * length)
    spent = sum(figures.seconds_spent(run).values())
    rows += [("time", duration(spent))] if spent else []
    keys = {
        "model": ("num_layers", "d_model", "num_heads", "num_kv_heads", "context_length", "vocab_size"),
        "optimizer": ("name", "lr", "weight_decay"),
        "training": ("batch_size", "dropout") if model.imported_from is None else (),
    }
    settings = ((f"[{table}] {key}", run.setting(table, key)) for table, own in keys.items() for key in own)
    return rows + [(label, str(value)) for label, value in settings if value is not None]


def _tokens_rows(run: Run, tokens: int) -> Rows:
    size = figures.pass_tokens(run, run.train) if run.train else 0.0
    passes = f", {tokens / size:.3g} passes over the text" if size else ""
    return [("tokens", f"{count(tokens)}{passes}")]


def environment_rows(run: Run) -> Rows:
    """Return processor, device and versions."""
    processor = run.facts.get("processor")
    return [*([("processor", str(processor))] if processor else []), *figures.environment_rows(run)]


def last_samples(run: Run, step: int) -> list[Sample]:
    """Return the samples of the model's step or, without any, those of the last step that has some."""
    own = [sample for sample in run.samples if sample.step == step]
    last = [sample for sample in run.samples if sample.step == run.samples[-1].step]
    return (own or last)[:MAX_SAMPLES]


def _shown(sample: Sample) -> dict[str, str]:
    return {"prompt": cut(sample.prompt, MAX_LENGTH), "text": cut(sample.prompt + sample.text, MAX_LENGTH)}


def _widget(sample: Sample) -> dict[str, Any]:
    text, output = (cut(part, MAX_WIDGET_LENGTH) for part in (sample.prompt, sample.text))
    return {"text": text, "output": {"text": output}}


def limits(run: Run, model: CardModel) -> str:
    """Return what must not be expected of the model."""
    length = run.setting("model", "context_length")
    sees = f" It sees at most {length:,} tokens at a time." if isinstance(length, int) else ""
    is_small = model.parameters < SMALL_PARAMETERS
    small = f" With {count(model.parameters)} parameters it repeats itself and loses the thread." * is_small
    return (
        "The model continues text in the manner of the text that it was trained on, and knows nothing else: "
        f"it states what is wrong as fluently as what is right.{small}{sees} "
        "transformerlm filters no text: what stands in it, names and whole passages too, the model may write."
    )
