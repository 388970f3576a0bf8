"""Reading of a run's folder: `read_run`.

A run that was written by this version keeps all of it in its folder. For an older one, the newest checkpoint
and the sidecars of the token files are asked; what nobody knows is left out of the report.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformerlm.errors import ConfigError, DataError, Key, TransformerLMError
from transformerlm.logging import Sample, read_history, read_samples
from transformerlm.logging.history import START
from transformerlm.report.metrics import Metrics, read_metrics
from transformerlm.schema import read_toml

METRICS, CONFIG, SAMPLES, TOKENIZER = "metrics.jsonl", "config.toml", "samples.jsonl", "tokenizer"


@dataclass(frozen=True)
class Text:
    """One of the two parts of the data."""

    documents: int
    num_bytes: int
    tokens: int

    @classmethod
    def of(cls, values: Any) -> Text | None:
        """Return it from a record; None if that is no such record."""
        try:
            return cls(int(values["documents"]), int(values["bytes"]), int(values["tokens"]))
        except (LookupError, TypeError, ValueError):
            return None


@dataclass(frozen=True)
class MixedCorpus:
    """One of the corpora of a mixture."""

    name: str
    share: float
    """Of the training sequences, 0 to 1."""
    text: Text

    @classmethod
    def all_of(cls, values: Any) -> list[MixedCorpus]:
        """Return those of a record; what is no such record is left out."""
        found = []
        for value in values if isinstance(values, list) else ():
            if not isinstance(value, dict) or (text := Text.of(value)) is None:
                continue
            name, share = value.get("name"), value.get("share")
            if isinstance(name, str) and isinstance(share, int | float) and 0 < share <= 1:
                found.append(cls(name, float(share), text))
        return found


@dataclass(frozen=True)
class Run:
    """A run, as its folder describes it."""

    path: Path
    name: str
    metrics: Metrics
    config: Mapping[str, Any]
    """Nested tables, as in config.toml."""
    history: list[dict[str, Any]]
    """Records of `transformerlm.logging.history`."""
    facts: Mapping[str, Any]
    """Record of the newest start: parameters, device, environment, data, xz."""
    samples: list[Sample]
    expected: tuple[float, float, float] | None = None
    """Bits per byte that were expected: their value, its lower and its upper limit."""
    longest_tokens: list[bytes] = field(default_factory=list)

    @property
    def train(self) -> Text | None:
        """The text that was trained on."""
        return Text.of(self._data.get("train"))

    @property
    def val(self) -> Text | None:
        """The text that was held out."""
        return Text.of(self._data.get("val"))

    @property
    def _data(self) -> Mapping[str, Any]:
        data = self.facts.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def mixture(self) -> list[MixedCorpus]:
        """The corpora that were trained on, if there are several."""
        return MixedCorpus.all_of(self.facts.get("mixture"))

    @property
    def corpora(self) -> list[str]:
        """The paths of the text that was trained on, as in the config."""
        mixture = self.setting("data", "mixture")
        if isinstance(mixture, list) and mixture:
            return [str(part["path"]) for part in mixture if isinstance(part, dict) and "path" in part]
        corpus = self.setting("data", "corpus")
        return [] if corpus is None else [str(corpus)]

    @property
    def xz(self) -> list[float]:
        """Bits per byte of xz: alone, and after the training text; empty or shorter if not known."""
        found = self.facts.get("xz")
        return list(filter(_is_rate, found)) if isinstance(found, list) else []

    @property
    def ngram_bits(self) -> float | None:
        """Bits per byte of a finished run with its memory of n-grams; None if it has none."""
        found = self.history[-1].get("ngram_bits_per_byte") if self.history else None
        return found if _is_rate(found) else None

    def setting(self, table: str, key: str) -> Any:
        """Return a value of the run's config; None if it has none."""
        found = self.config.get(table)
        return found.get(key) if isinstance(found, dict) else None


def read_run(path: Path) -> Run:
    """Read the folder of a run.

    Raises:
        ConfigError: it is not a run's folder.
    """
    if not (path / METRICS).is_file() and not (path / CONFIG).is_file():
        found = "a folder without metrics.jsonl" if path.is_dir() else "no such folder"
        raise ConfigError(f"{path}: expected the folder of a run, got {found}", key=Key("report", "runs"))
    config: dict[str, Any] = {}
    with contextlib.suppress(TransformerLMError):
        config = read_toml(path / CONFIG)
    history = read_history(path)
    starts = [record for record in history if record.get("event") == START]
    return Run(
        path=path,
        name=path.absolute().name,
        metrics=read_metrics(path / METRICS),
        config=config,
        history=history,
        facts=starts[-1] if starts else _facts_of_old_run(path, config),
        samples=_samples(path / SAMPLES),
        expected=_expectation(path),
        longest_tokens=_longest_tokens(path / TOKENIZER),
    )


def _samples(path: Path) -> list[Sample]:
    with contextlib.suppress(OSError, RecursionError):
        found = [sample for sample in read_samples(path) if sample.prompt or sample.text]
        return sorted(found, key=lambda sample: sample.step)
    return []


def _expectation(path: Path) -> tuple[float, float, float] | None:
    try:
        values = json.loads((path / "expectation.json").read_bytes())
        found = values["bits_per_byte"], values["low"], values["high"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found if all(map(_is_rate, found)) else None


def _is_rate(value: Any) -> bool:
    """Return True for a possible number of bits per byte."""
    return isinstance(value, int | float) and 0 < value < 1000


NUM_LONGEST = 24
"""Tokens that are shown of a vocabulary."""


def _longest_tokens(path: Path) -> list[bytes]:
    from transformerlm.tokenizer import Tokenizer

    try:
        tokenizer = Tokenizer.from_dir(path)
    except (TransformerLMError, OSError):
        return []
    special = set(tokenizer.special_token_ids.values())
    tokens = [token for token_id, token in tokenizer.vocab.items() if token_id not in special]
    return sorted(tokens, key=lambda token: (-len(token), token))[:NUM_LONGEST]


def _facts_of_old_run(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a start would have recorded, from the newest checkpoint and the token files."""
    # Imported only for old runs: torch takes seconds.
    from transformerlm.checkpoint.own_settings import newest_manifest

    facts: dict[str, Any] = {}
    if newest := newest_manifest(path):
        facts["environment"] = newest.about.get("environment", {})
        facts["clock"] = newest.about.get("clock", {})
        facts["is_complete"] = newest.about.get("is_complete")
    with contextlib.suppress(TransformerLMError, OSError, TypeError, ValueError):
        facts |= _token_file_facts(config)
    return facts


def _token_file_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of parameters, tokens and bytes, and what is known of xz.

    Raises:
        TransformerLMError: the config is of another version, or there are no such token files.
    """
    from transformerlm.config import TrainConfig
    from transformerlm.data import TokenFile, fill_placeholders
    from transformerlm.evaluation.xz import RECORD_FILE, XzBaseline
    from transformerlm.nn import num_parameters
    from transformerlm.schema import from_dict

    own = from_dict(TrainConfig, config)
    folder = Path(fill_placeholders(str(own.data.token_dir), own.data))
    facts: dict[str, Any] = {"parameters": num_parameters(own.model), "data": {}}
    files: dict[str, TokenFile] = {}
    with contextlib.suppress(DataError):
        for name in ("train", "val"):
            file = files[name] = TokenFile.open(folder / f"{name}.memmap")
            counts = {"documents": file.num_documents, "bytes": file.num_bytes, "tokens": file.num_tokens}
            facts["data"][name] = counts
    if len(files) == 2:
        text = [file.sha256 for file in files.values()]
        if xz := XzBaseline.read(folder / RECORD_FILE, text):
            facts["xz"] = [xz.alone, xz.after_training_text]
    return facts
