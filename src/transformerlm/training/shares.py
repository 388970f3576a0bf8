"""Shares of a mixture's corpora in the training sequences of a run, from their weights and passes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from transformerlm.config import TrainConfig
from transformerlm.data.build import TokenData
from transformerlm.data.mixture import shares_of
from transformerlm.data.token_group import files_of
from transformerlm.errors import ConfigError, Key
from transformerlm.schema import are_known


def with_shares(config: TrainConfig, data: TokenData) -> TokenData:
    """Return the tokens with the shares of their corpora; of one corpus they stay as they are.

    Weights alone are shares, and so are passes times the sizes of the corpora. Where there are both, the
    passes are those of the whole run, and the weights share the rest of its sequences.

    Raises:
        ConfigError: the passes leave nothing for the weights.
    """
    mixture = config.data.mixture
    if not mixture:
        return data
    sizes = {name: file.num_tokens for name, file in files_of(data.train).items()}
    shares = shares_of(mixture, sizes)
    have_passes = {part.passes is not None for part in mixture}
    if len(have_passes) > 1:
        tokens = {part.own_name: (part.passes or 0.0) * sizes[part.own_name] for part in mixture}
        total = _tokens_of_run(config)
        rest = 1 - sum(tokens.values()) / total
        if rest <= 0:
            raise _nothing_left(config, sum(tokens.values()))
        shares = {name: tokens[name] / total + rest * share for name, share in shares.items()}
    return dataclasses.replace(data, shares=shares)


def with_passes(config: TrainConfig, data: TokenData) -> TrainConfig:
    """Return the config with the passes over the whole mixture at which the run ends, if all corpora have
    passes."""
    mixture = config.data.mixture
    if not mixture or not all(part.passes for part in mixture):
        return config
    files = files_of(data.train)
    tokens = sum((part.passes or 0.0) * files[part.own_name].num_tokens for part in mixture)
    most = config.training.max_passes
    passes = min(tokens / data.pass_tokens, most if most and are_known(most) else math.inf)
    return dataclasses.replace(config, training=dataclasses.replace(config.training, max_passes=passes))


def _tokens_of_run(config: TrainConfig) -> int:
    """Return the tokens that a run with a budget in steps or tokens draws."""
    context_length = config.model.context_length
    steps = config.training.steps_in_budget(context_length)
    assert steps is not None  # otherwise the config is refused
    return steps * config.training.batch_size * context_length


def _nothing_left(config: TrainConfig, tokens: float) -> ConfigError:
    training, budget = config.training, "max_tokens" if config.training.max_tokens else "max_steps"
    of_step = training.batch_size * config.model.context_length
    least = math.floor(tokens / of_step) + 1
    needed = least * of_step if budget == "max_tokens" else least
    what = f"expected at least {needed:,}, since the passes of [[data.mixture]] come to {tokens:,.0f} tokens"
    return ConfigError(f"{what}, got {getattr(training, budget) or 1000:,}", key=Key("training", budget))


def describe_shares(data: TokenData, tokens: float | None) -> str:
    """Return the shares for a person: `70 % books (1,200,000 tokens, 0.58 passes), 30 % notes (...)`.

    Args:
        tokens: of the whole run; None: not known.
    """
    files, parts = files_of(data.train), []
    for name, share in data.shares.items():
        size = files[name].num_tokens
        passes = f", {tokens * share / size:.3g} passes" if tokens else ""
        parts.append(f"{100 * share:.3g} % {name} ({size:,} tokens{passes})")
    return ", ".join(parts)


def mixture_facts(data: TokenData) -> list[dict[str, Any]]:
    """Return what the run's history says of a mixture: a record for each corpus."""
    files = files_of(data.train)
    return [
        {
            "name": name,
            "share": share,
            "documents": files[name].num_documents,
            "bytes": files[name].num_bytes,
            "tokens": files[name].num_tokens,
        }
        for name, share in data.shares.items()
    ]
