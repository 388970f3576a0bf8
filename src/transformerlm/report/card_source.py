"""Collection of what a model card says: of the checkpoint, its run's folder, and its validation tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformerlm.checkpoint.manifest import Checkpoint
from transformerlm.checkpoint.run_directory import IMPORTED_FROM, RunDirectory
from transformerlm.checkpoint.store import BEST_VALIDATION, NEWEST_VALIDATION
from transformerlm.config import DataConfig, ExportSection
from transformerlm.conversion.hf_layout import ARCHITECTURES, model_type_of
from transformerlm.data import TokenData, files_of, fill_placeholders
from transformerlm.errors import ConfigError, TransformerLMError
from transformerlm.evaluation.held_out import MAX_FLOPS, HeldOut, held_out_estimate, stratified
from transformerlm.evaluation.statistics import exp_or_infinity
from transformerlm.language_model import LanguageModel
from transformerlm.nn import num_parameters
from transformerlm.report.card import CardModel, Quality, model_card
from transformerlm.report.metrics import Metrics
from transformerlm.report.run import Run, read_run
from transformerlm.schema import from_dict


def card_of(lm: LanguageModel, name: str, section: ExportSection) -> str:
    """Return the card of a model that is exported into a folder.

    Args:
        lm: the model.
        name: the folder's.
        section: [export].
    """
    about = lm.checkpoint.about
    imported_from = about.get(IMPORTED_FROM)
    return model_card(
        run_of(lm.checkpoint),
        CardModel(
            name=name,
            architecture=ARCHITECTURES[model_type_of(lm.model.config)],
            parameters=num_parameters(lm.model.config),
            step=lm.checkpoint.step,
            dtype=section.dtype,
            quality=quality_of(lm),
            identity=_table(about, "identity"),
            imported_from=None if imported_from is None else str(imported_from).rpartition(" (")[0],
            license=section.license,
        ),
    )


def run_of(checkpoint: Checkpoint) -> Run:
    """Return the run that a checkpoint belongs to, with the config of the checkpoint.

    Where there is only the checkpoint, that is all that is known of the run.
    """
    path, about = RunDirectory.of(checkpoint).path, checkpoint.about
    facts = {"environment": _table(about, "environment"), "clock": _table(about, "clock")}
    try:
        run = read_run(path)
    except ConfigError:
        run = Run(path, path.name, Metrics({}), {}, [], facts, [])
    config = _table(about, "config") or run.config
    if IMPORTED_FROM in about:  # what the config says of text and training is for training it further
        config = {table: values for table, values in config.items() if table in ("model", "generation")}
    return dataclasses.replace(run, config=config)


def quality_of(lm: LanguageModel) -> Quality:
    """Return the bits per byte that the run recorded for the checkpoint, and their interval.

    The interval is that of the validation tokens, if they are where the run's config says.
    """
    recorded = recorded_validation(lm.checkpoint)
    val = validation_tokens(lm.checkpoint)
    found = held_out_of_all(lm, val) if val else None
    if recorded is None and (found is None or not found.is_whole):
        return Quality(None, None, None, "It is not known how well the model does on text that was held out.")
    loss, bits = recorded or (None, None)
    bits = found.bits_per_byte.value if bits is None and found else bits
    assert bits is not None
    perplexity = None if loss is None else exp_or_infinity(loss)
    perplexity = perplexity if perplexity is not None and math.isfinite(perplexity) else None
    if found is None:
        where = "too few" if val else "not at hand"
        what = f"There is no interval: a run records only the mean, and its validation tokens were {where}."
        return Quality(bits, perplexity, None, what)
    half = found.bits_per_byte.interval()[1] - found.bits_per_byte.value
    return Quality(bits, perplexity, (max(0.0, bits - half), bits + half), interval_note(found))


def interval_note(found: HeldOut) -> str:
    """Return how the interval was found."""
    tokens = f"{'all' if found.is_whole else 'the first'} {found.num_tokens:,} held-out tokens"
    note = (
        f"The interval is 1.96 standard errors to either side, from the spread of the bits per byte over "
        f"{found.num_units:,} {found.unit} in {tokens}, scored when the model was exported."
    )
    if found.unit == "sections":
        note += " Sections of the same few documents are alike: other documents may lie further off."
    return note


def recorded_validation(checkpoint: Checkpoint) -> tuple[float, float] | None:
    """Return loss and bits per byte of the checkpoint's weights, if its run has recorded them."""
    for key in (NEWEST_VALIDATION, BEST_VALIDATION):
        values = checkpoint.about.get(key)
        if isinstance(values, list) and len(values) == 3 and values[0] == checkpoint.step:
            loss, bits = values[1:]
            if isinstance(loss, float) and isinstance(bits, float) and math.isfinite(loss + bits):
                return loss, bits
    return None


def held_out_of_all(lm: LanguageModel, data: TokenData) -> HeldOut | None:
    """Return the estimate on all validation tokens; None if there are too few, of one corpus too."""
    assert data.val is not None
    files = files_of(data.val)
    found = {name: held_out_estimate(lm, file, MAX_FLOPS / len(files)) for name, file in files.items()}
    known = {name: own for name, own in found.items() if own is not None}
    if len(known) < len(found):
        return None
    return stratified(known, bytes_drawn(data)) if data.shares else known[""]


def bytes_drawn(data: TokenData) -> dict[str, float]:
    """Return the bytes of each corpus' validation text in a token that is drawn as in training."""
    assert data.val is not None
    files = files_of(data.val)
    return {
        name: share * files[name].num_bytes / files[name].num_tokens for name, share in data.shares.items()
    }


def validation_tokens(checkpoint: Checkpoint) -> TokenData | None:
    """Return the tokens of a checkpoint's run, if those to validate on are still those of the training."""
    identity = _table(checkpoint.about, "identity")
    try:
        config = from_dict(DataConfig, _table(_table(checkpoint.about, "config"), "data"))
        data = TokenData.open(config, Path(fill_placeholders(config.token_dir, config)))
    except (TransformerLMError, OSError):
        return None
    if data.val is None:
        return None
    keys = {name: f"val data of {name}" if name else "val data" for name in files_of(data.val)}
    if any(file.sha256 != identity.get(keys[name]) for name, file in files_of(data.val).items()):
        return None
    shares = _table(identity, "mixture")
    if config.mixture and (shares.keys() != keys.keys() or not all(map(_is_share, shares.values()))):
        return None
    return dataclasses.replace(data, shares=shares if config.mixture else {})


def _is_share(value: Any) -> bool:
    return isinstance(value, float) and 0 < value <= 1


def _table(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    return dict(found) if isinstance(found, dict) else {}
