"""A run's own settings, which are the defaults of whoever uses the run: [generation] for generating text,
[data] for scoring the text that was held out from its training.

Precedence is the same everywhere: what is asked for, then what the run's config says, then this package's
defaults. The run's config is the one in the manifest of its checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformerlm.checkpoint.manifest import MANIFEST, Checkpoint, read_manifest
from transformerlm.checkpoint.store import checkpoint_paths
from transformerlm.config import CorpusConfig, GenerationConfig
from transformerlm.errors import CheckpointError
from transformerlm.schema import Section


def own_table(about: Mapping[str, Any], table: str) -> dict[str, Any]:
    """Return a table of the config that a checkpoint was made with, or an empty one if it is not known.

    Args:
        about: the checkpoint's `about`.
        table: the name of the table, such as "generation".
    """
    config = about.get("config")
    found = config.get(table) if isinstance(config, dict) else None
    return dict(found) if isinstance(found, dict) else {}


def own_generation(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of [generation] that a checkpoint's config sets, without those of other versions."""
    return _known(own_table(about, "generation"), GenerationConfig)


def _known(values: Mapping[str, Any], section: type[Section]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(section)}
    return {key: value for key, value in values.items() if key in names}


def generation_of_run(path: Path) -> dict[str, Any]:
    """Return `own_generation` of a run's newest checkpoint, or of one checkpoint, without reading weights.

    An empty one where no manifest can be read: loading the model then says why.

    Args:
        path: folder of the run, or of the checkpoint.
    """
    newest = newest_manifest(path)
    return own_generation(newest.about) if newest else {}


def config_of_run(path: Path) -> dict[str, Any]:
    """Return the config of a run's newest checkpoint as nested dictionaries; see `generation_of_run`."""
    newest = newest_manifest(path)
    config = newest.about.get("config") if newest else None
    return dict(config) if isinstance(config, dict) else {}


def newest_manifest(path: Path) -> Checkpoint | None:
    """Return the newest checkpoint of a run whose manifest can be read; its members are not read."""
    return next(_manifests(path), None)


def text_of_run(path: Path) -> dict[str, Any]:
    """Return the keys of [data] about text that a run's config sets; see `generation_of_run`."""
    newest = newest_manifest(path)
    return _known(own_table(newest.about, "data"), CorpusConfig) if newest else {}


def _manifests(path: Path) -> Iterator[Checkpoint]:
    """Yield the checkpoints whose manifest can be read, newest first."""
    with contextlib.suppress(CheckpointError, OSError):
        is_checkpoint = (path / MANIFEST).exists()
        for folder in [path] if is_checkpoint else reversed(checkpoint_paths(path / "checkpoints")):
            with contextlib.suppress(CheckpointError):
                yield read_manifest(folder)
