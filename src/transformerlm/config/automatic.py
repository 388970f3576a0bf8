"""Keys of transformerlm-train that are chosen where the user leaves them out, and what goes with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformerlm.config.commands import TrainConfig
from transformerlm.errors import Key
from transformerlm.schema import AUTO, merge

DEFAULT_TIME = "10m"
"""Budget of transformerlm-train where no other is given."""
DIALLED: Mapping[str, Mapping[str, Any]] = {
    "data": {"token_dir": AUTO},
    "tokenizer": {"tokenizer_dir": AUTO, "vocab_size": AUTO},
    "model": {
        "context_length": AUTO,
        "d_model": AUTO,
        "num_layers": AUTO,
        "num_heads": AUTO,
        "d_ff": AUTO,
        "tie_embeddings": True,
        "qk_norm": True,
    },
    "optimizer": {
        "name": "muon",
        "lr": AUTO,
        "muon_lr": AUTO,
        "muon_momentum": 0.9,
        "muon_steps": 3,
        "betas": [0.8, 0.95],
        "weight_decay": AUTO,
    },
    "schedule": {
        "name": "wsd",
        "warmup_steps": AUTO,
        "decay_fraction": 0.6,
        "final_lr_fraction": 0.0,
    },
    "training": {
        "batch_size": AUTO,
        "dropout": AUTO,
        "max_passes": AUTO,
        "patience": 3,
        "ngram_memory": True,
        "validate_every": AUTO,
        "checkpoint_every": AUTO,
        "log_every": AUTO,
    },
}
"""Values of what the user leaves out if the budget is a time. Those that are no "auto" are the same for every
text; they were found with the others (docs/performance.md)."""


def with_automatic(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that the user has set, with "auto" and what goes with it for the others.

    With a budget in steps or tokens, and for fine-tuning, nothing is added: `TrainConfig` has the defaults.

    Args:
        given: nested as in TOML.
    """
    training = given.get("training", {})
    if not isinstance(training, Mapping):  # told when the config is built
        return dict(given)
    if any(training.get(key) not in (None, "None") for key in ("max_steps", "max_tokens", "start_from")):
        return dict(given)
    # Patience counts validations at the intervals that are chosen.
    own = {"max_time": DEFAULT_TIME, **({"patience": None} if "validate_every" in training else {})}
    return merge(merge(DIALLED, {"training": own}), given)


def with_values(config: TrainConfig, values: Mapping[Key, Any]) -> TrainConfig:
    """Return the config with some keys replaced.

    Args:
        values: `Key(table, name)` -> value.

    Raises:
        SchemaError: the values cannot be used together.
    """
    tables: dict[str, dict[str, Any]] = {}
    for (table, name), value in values.items():
        tables.setdefault(table, {})[name] = value
    changed = {table: dataclasses.replace(getattr(config, table), **own) for table, own in tables.items()}
    return dataclasses.replace(config, **changed)
