"""Initial weights from another run's checkpoint, for fine-tuning.

Only the weights are taken: optimizer, data, budget and random numbers are the new run's own.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from transformerlm.checkpoint.load_state import load_model_state
from transformerlm.checkpoint.run_directory import differences, on_all_ranks
from transformerlm.checkpoint.store import Checkpoint, open_checkpoint
from transformerlm.config import ModelConfig, TrainConfig
from transformerlm.data import fill_placeholders
from transformerlm.errors import CheckpointError, Key, Problem
from transformerlm.progress import Reporter
from transformerlm.schema import from_dict, to_dict
from transformerlm.tokenizer import Tokenizer
from transformerlm.training.learner import Learner

_KEY = Key("training", "start_from")
_UNSCALED: dict[str, Any] = {
    field.name: None
    for field in dataclasses.fields(ModelConfig)
    if field.name.startswith("rope_") and field.default is None
}
"""The keys of [model] about rope_scaling, with those values with which rotations are as they were."""


def starting_point(config: TrainConfig, reporter: Reporter) -> Checkpoint:
    """Return the checkpoint that [training].start_from names, if this run can start from its weights.

    Its tokenizer has to be in [tokenizer].tokenizer_dir, and its model has to be [model], except for
    context_length, on which the weights do not depend, and a rope_scaling that is new, to extend it.

    Raises:
        CheckpointError: there is none, or it is of another model or tokenizer: a line for each difference.
        DataError: the tokenizer cannot be read.
    """
    path = Path(str(config.training.start_from)).expanduser()
    found = open_checkpoint(path, reporter.say)
    tokenizer_dir = Path(fill_placeholders(config.tokenizer.tokenizer_dir, config.data))
    tokenizer = Tokenizer.from_dir(tokenizer_dir) if tokenizer_dir.exists() else None
    if tokenizer is None or tokenizer.fingerprint != found.require("identity", "tokenizer"):
        own = found.path.parent.parent / "tokenizer"
        advice = f'--tokenizer.tokenizer_dir="{own}", and a --data.token_dir for what it makes'
        what = f"{found.path} has another tokenizer than {tokenizer_dir}; {advice}"
        raise CheckpointError(what, key=_KEY)
    theirs = from_dict(ModelConfig, found.require("config", "model"), str(found.path))
    ours = config.model if theirs.rope_scaling else dataclasses.replace(config.model, **_UNSCALED)
    shapes = (_shape(model, tokenizer.vocab_size) for model in (theirs, ours))
    if changes := differences(*map(to_dict, shapes)):
        raise CheckpointError(
            [Problem(_KEY, f"another model than {found.path}: [model].{line}") for line in changes]
        )
    return found


def load_initial_weights(learner: Learner, config: TrainConfig, reporter: Reporter) -> None:
    """Load the weights of [training].start_from into a learner; called by all ranks."""
    ranks = learner.ranks
    with ranks.while_rank_0_works():
        found = starting_point(config, reporter) if ranks.is_main else None
    found = on_all_ranks(found, ranks)
    assert found
    state = learner.parallelism.read(found.model_state)
    with ranks.collective_errors():
        load_model_state(learner.model, state, str(config.training.start_from))
    reporter.say(f"starting from the weights of {found.path}")


def _shape(model: ModelConfig, num_ids: int) -> ModelConfig:
    """Return the keys of [model] that the weights depend on, with defaults filled in."""
    rows = model.vocab_size or num_ids
    widths: dict[str, Any] = {"d_head": model.head_dim, "num_kv_heads": model.kv_heads}
    return dataclasses.replace(model, vocab_size=rows, context_length=1, **widths)
