"""The config of a run as others may see it: without its user's folders, accounts and commands."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from transformerlm.config import TrainConfig
from transformerlm.schema import field_types, item_section, tables
from transformerlm.schema.values import takes_path

PRIVATE_TABLES = ("logging", "wandb")
"""Tables about the user's accounts and programs; the model does not depend on them."""
HEAD_TABLES = ("model", "optimizer", "schedule")
"""Tables that the head of a card has."""
CONFIG_NOTE = (
    "The tables [logging] and [wandb], which the model does not depend on, are left out, and of absolute "
    "paths the folders."
)


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's config without private tables, and of absolute paths the last part."""
    return {table: _public(value) for table, value in config.items() if table not in PRIVATE_TABLES}


def public_path(path: str) -> str:
    """Return a relative path as it is, and of an absolute one the last part."""
    for kind in (PurePosixPath(path), PureWindowsPath(path)):
        if kind.is_absolute() or path.startswith("~"):
            return kind.name
    return path


def toml(config: Mapping[str, Any]) -> str:
    """Return the public config as TOML; "" for an empty one, or one that is not of this package."""
    import tomli_w

    try:
        return tomli_w.dumps(public_config(config))
    except (TypeError, ValueError):
        return ""


def _public(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _public(own, name) for name, own in value.items()}
    if isinstance(value, list):
        return [_public(own, key) for own in value]
    return public_path(value) if isinstance(value, str) and key in _path_keys() else value


@functools.cache
def _path_keys() -> frozenset[str]:
    """Return the names of all keys whose value is a path."""
    own = [hints for section in tables(TrainConfig).values() for hints in field_types(section).items()]
    inner = [hints for _, hint in own if (item := item_section(hint)) for hints in field_types(item).items()]
    return frozenset(name for name, hint in (*own, *inner) if takes_path(hint))
