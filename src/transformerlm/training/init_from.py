"""Where a new run's weights come from when they are not random: another run's checkpoint, as in fine-tuning.

The weights and nothing else: optimizer, data, budget and random numbers are the new run's own.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from transformerlm.checkpoint.run_directory import differences
from transformerlm.checkpoint.store import Checkpoint, open_checkpoint
from transformerlm.config import ModelConfig, TrainConfig
from transformerlm.data import fill_placeholders
from transformerlm.distributed.collectives import collective_errors, while_rank_0_works
from transformerlm.distributed.world import World
from transformerlm.errors import CheckpointError, Key, Problem
from transformerlm.progress import Reporter
from transformerlm.schema import from_dict, to_dict
from transformerlm.tokenizer import Tokenizer
from transformerlm.training.learner import Learner

_KEY = Key("training", "start_from")


def starting_point(config: TrainConfig, reporter: Reporter) -> Checkpoint:
    """The checkpoint that [training].start_from names, if this run can begin with its weights.

    Its tokenizer has to be in [tokenizer].tokenizer_dir, and its model has to be [model]; but for how long a
    context is, which weights do not know.

    Raises:
        CheckpointError: there is none, or it is of another model or tokenizer: a line for each difference.
        DataError: the tokenizer is there, and cannot be read.
    """
    path = Path(str(config.training.start_from)).expanduser()
    found = open_checkpoint(path, reporter.say)
    tokenizer_dir = Path(fill_placeholders(config.tokenizer.tokenizer_dir, config.data))
    tokenizer = Tokenizer.from_dir(tokenizer_dir) if tokenizer_dir.exists() else None
    if tokenizer is None or tokenizer.fingerprint != found.told("identity", "tokenizer"):
        own = found.path.parent.parent / "tokenizer"
        advice = f'--tokenizer.tokenizer_dir="{own}", and a --data.token_dir for what it makes'
        what = f"{found.path} has another tokenizer than {tokenizer_dir}; {advice}"
        raise CheckpointError(what, key=_KEY)
    theirs = from_dict(ModelConfig, found.told("config", "model"), str(found.path))
    shapes = (_shape(model, tokenizer.vocab_size) for model in (theirs, config.model))
    if changes := differences(*map(to_dict, shapes)):
        raise CheckpointError(
            [Problem(_KEY, f"another model than {found.path}: [model].{line}") for line in changes]
        )
    return found


def take_weights(learner: Learner, config: TrainConfig, reporter: Reporter, world: World) -> None:
    """Have a learner begin with the weights of [training].start_from; rank 0 alone reads them."""
    state = {}
    with while_rank_0_works(world):
        if world.is_main:
            found = starting_point(config, reporter)
            state = found.model_state()
            reporter.say(f"starting from the weights of {found.path}")
    with collective_errors(world):
        learner.load_weights(state, str(config.training.start_from))


def _shape(model: ModelConfig, num_ids: int) -> ModelConfig:
    """All that the weights depend on, with what is left open filled in."""
    rows = model.vocab_size or num_ids
    return dataclasses.replace(model, vocab_size=rows, num_kv_heads=model.kv_heads, context_length=1)
