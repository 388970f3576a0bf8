"""Several corpora in place of one: the config of each, and errors that name it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from transformerlm.config import CorpusConfig, DataConfig, MixtureConfig
from transformerlm.errors import Key, TransformerLMError

C = TypeVar("C", bound=CorpusConfig)
CORPUS = Key("data", "corpus")
SHARE_DIGITS = 12
"""Digits of a share after the point."""


def corpora_of(config: C) -> dict[str, C]:
    """Return the config of each corpus by its name; "" for the only one.

    The token files of each corpus of a mixture are in a folder of its own.
    """
    if not config.mixture:
        return {"": config}
    found = {}
    for part in config.mixture:
        changes: dict[str, Any] = {"mixture": None, "corpus": part.path}
        if isinstance(config, DataConfig):
            folder = Path(config.token_dir.replace("{corpus}", config.corpus_name))
            changes["token_dir"] = str(folder / part.own_name)
        found[part.own_name] = dataclasses.replace(config, **changes)
    return found


def shares_of(mixture: Sequence[MixtureConfig], sizes: Mapping[str, float]) -> dict[str, float]:
    """Return the shares of corpora that all have weights, or all passes: passes times sizes.

    Where there are both, those with passes get none: the weights share what is left to them.

    Args:
        mixture: [data].mixture.
        sizes: name of each corpus -> its size, in any unit.
    """
    have_passes = all(part.passes is not None for part in mixture)
    wanted = {
        part.own_name: (part.passes or 0.0) * sizes[part.own_name] if have_passes else part.weight or 0.0
        for part in mixture
    }
    total = sum(wanted.values())
    # Rounded: weights 7, 2, 1 and 0.7, 0.2, 0.1 are the same shares, to the last bit.
    return {name: round(own / total, SHARE_DIGITS) for name, own in wanted.items()}


def pass_size(shares: Mapping[str, float], sizes: Mapping[str, float]) -> float:
    """Return the amount that has to be drawn until a pass is over, in the unit of the sizes.

    After an amount D a corpus of size n, from which a share s is drawn, has been read D s / n times; the mean
    over what was drawn is D sum(s^2 / n), which is 1 after this amount. For shares in proportion to the sizes
    it is the size of all.
    """
    return 1 / sum(share**2 / sizes[name] for name, share in shares.items())


@contextlib.contextmanager
def naming_corpus(config: CorpusConfig, name: str) -> Iterator[None]:
    """Context manager: errors about the path of one corpus of a mixture have the key of that path."""
    try:
        yield
    except TransformerLMError as error:
        names = [part.own_name for part in config.mixture or ()]
        if name in names:
            key = Key("data", "mixture", str(names.index(name)), "path")
            problems = error.problems
            error.problems = [one._replace(key=key) if one.key == CORPUS else one for one in problems]
        raise
