"""Evaluation of one model, or of two on the same documents: `evaluate(EvalConfig(...))`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformerlm.checkpoint.run_directory import RunDirectory
from transformerlm.checkpoint.store import Checkpoint, open_checkpoint
from transformerlm.config import EvalConfig, ModelConfig
from transformerlm.data.corpus import refuse_overlap
from transformerlm.errors import DataError, Key
from transformerlm.evaluation.documents import (
    end_of_text_id,
    load_for_scoring,
    score,
    start_of_text_id,
)
from transformerlm.evaluation.leaks import find_leaked_tokens
from transformerlm.evaluation.statistics import Difference, DocumentScores, difference
from transformerlm.evaluation.text import Text
from transformerlm.language_model import LanguageModel, check_widths, load_memory
from transformerlm.nn import num_parameters
from transformerlm.progress import Reporter, SilentReporter
from transformerlm.runtime.device import DtypeName, dtype_name
from transformerlm.schema import from_dict


@dataclass(frozen=True)
class ScoredModel:
    """A model, and its scores for each document."""

    checkpoint: Checkpoint
    tokens: tuple[str, int | None, int | None]
    """Fingerprint of the tokenizer, and the ids before and behind a document: models that agree in all three
    count the same tokens."""
    scores: DocumentScores
    weights: str = ""
    """[runtime].weights, if it is not "auto"."""
    has_ngrams: bool = False
    """True if it was mixed with its memory of n-grams."""

    @property
    def name(self) -> str:
        """Folder of the checkpoint, the storage of the weights if one was chosen, and its memory if used."""
        details = ", ".join([self.weights] * bool(self.weights) + ["with n-grams"] * self.has_ngrams)
        return f"{self.checkpoint.path}{f' ({details})' if details else ''}"


@dataclass(frozen=True)
class Evaluation:
    """The scores of one or two models on a text."""

    text: str
    """Description of the text."""
    first: ScoredModel
    second: ScoredModel | None = None
    difference: Difference | None = None
    """First minus second; None if there is one model."""


def evaluate(config: EvalConfig, reporter: Reporter | None = None) -> Evaluation:
    """Score a text with [eval].checkpoint, then with [eval].compare if there is one.

    Only one model is in memory at a time. Writes no file.

    Raises:
        ConfigError: a setting that does not fit the model or its tokenizer; no text is held out; or
            [eval].documents_file is a file of the text.
        DataError: the text cannot be read, or changed while it was being read.
        CheckpointError: there is no such model, or it is damaged.
    """
    reporter = reporter or SilentReporter()
    text = Text.find(config.data, config.eval.text)
    for note in text.notes():
        reporter.say(note)
    if config.eval.documents_file is not None:
        output = Path(config.eval.documents_file).expanduser()
        for corpora in text.corpora.values():
            refuse_overlap(corpora, [output], Key("eval", "documents_file"))
    # Both are opened before the first is scored, which may take long: a wrong path is reported at once.
    paths = [config.eval.checkpoint, config.eval.compare or config.eval.checkpoint][
        : 1 + config.eval.has_second
    ]
    checkpoints = [open_checkpoint(Path(path).expanduser(), reporter.say) for path in paths]
    if config.eval.compare_weights in ("int8", "int4"):
        about = checkpoints[-1].require("config", "model")
        shape = from_dict(ModelConfig, about, str(checkpoints[-1].path))
        check_widths(shape, config.eval.compare_weights, Key("eval", "compare_weights"))
    config = with_memory_decided(config, checkpoints, reporter)
    first, dtype = _scored(checkpoints[0].path, text, config, reporter)
    # "auto" may choose otherwise for another size, and two models may differ by no more than rounding does.
    weights = config.eval.compare_weights or config.runtime.weights
    runtime = dataclasses.replace(config.runtime, dtype=dtype, weights=weights)
    same = dataclasses.replace(config, runtime=runtime)
    others = [_scored(found.path, text, same, reporter)[0] for found in checkpoints[1:]]
    return compare(str(text), first, *others)


def with_memory_decided(
    config: EvalConfig, checkpoints: Sequence[Checkpoint], reporter: Reporter
) -> EvalConfig:
    """Return the config with [runtime].ngram_memory true or false, for all models alike.

    Raises:
        ConfigError: it is asked for, and a run has kept none.
    """
    runtime = config.runtime
    have = [RunDirectory.of(found).ngrams.is_dir() for found in checkpoints]
    if runtime.ngram_memory is True and not all(have):
        load_memory(checkpoints[have.index(False)], runtime)  # refuses it
    wanted = runtime.ngram_memory is True
    if runtime.ngram_memory == "auto":
        wanted = all(have) and not config.eval.compare_weights
        if any(have) and not all(have):
            reporter.say("both are scored without a memory of n-grams, which only one of them has")
    return dataclasses.replace(config, runtime=dataclasses.replace(runtime, ngram_memory=wanted))


def compare(text: str, first: ScoredModel, second: ScoredModel | None = None) -> Evaluation:
    """Return the scores with their difference.

    Raises:
        DataError: the two were not scored on the same documents.
    """
    if second is None:
        return Evaluation(text, first)
    if first.scores.num_bytes.tolist() != second.scores.num_bytes.tolist():
        raise DataError(f"{text}: has changed while it was being read; start again")
    found = difference(first.scores, second.scores, same_tokens=first.tokens == second.tokens)
    return Evaluation(text, first, second, found)


def _scored(path: Path, text: Text, config: EvalConfig, reporter: Reporter) -> tuple[ScoredModel, DtypeName]:
    """Load a model and score the text with it; return the precision of its products too.

    The model is freed on return.
    """
    lm = load_for_scoring(path, config.runtime, reporter.say)
    bos_id, eos_id = start_of_text_id(lm, config.eval), end_of_text_id(lm, config.eval)
    _describe(lm, bos_id, eos_id, reporter)
    settings = config.eval
    leaked = (
        find_leaked_tokens(lm, text, settings.max_documents, reporter) if settings.without_leaks else None
    )
    scores = score(lm, text, settings, reporter, leaked)
    tokens = lm.tokenizer.fingerprint, bos_id, eos_id
    scored = ScoredModel(lm.checkpoint, tokens, scores, lm.runtime.weights, lm.ngrams is not None)
    return scored, dtype_name(lm.runtime.dtype)


def _describe(lm: LanguageModel, bos_id: int | None, eos_id: int | None, reporter: Reporter) -> None:
    parameters = num_parameters(lm.model.config)
    memory = f", with n-grams of {len(lm.ngrams.index.tokens):,} training tokens" if lm.ngrams else ""
    reporter.say(f"{lm.checkpoint.path}: {parameters:,} parameters{memory}, on {lm.runtime}")
    if eos_id is None:
        what = "no end-of-text token ([eval].eos_token would name one)"
        then = ["the first token of a document is context only"] if bos_id is None else []
        then += ["its end is not predicted"]
        reporter.say(f"{lm.checkpoint.path}: {what}: {', and '.join(then)}")
