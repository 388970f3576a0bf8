"""Check of a run's folder: not that of the text, of the token files or of the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from transformerlm.config import TrainConfig
from transformerlm.errors import ConfigError, Key


def check_folders(config: TrainConfig, run_dir: Path) -> None:
    """Refuse a folder for a new run that is the folder of something that the run is made from.

    Nor may one hold the other, since either may be removed as a whole. There are two exceptions: a run below
    the corpus' folder is no text of it, and a tokenizer may be in the folder of a run.

    Raises:
        ConfigError: the folder cannot be that of the run.
    """
    if any((run_dir / "checkpoints").glob("step_*")):
        return  # it has been the run's all along
    own = run_dir.resolve()
    for key, path in _inputs(config):
        folder = path.resolve()
        is_inside = folder in own.parents and key[-1] in ("token_dir", "tokenizer_dir")
        holds = own in folder.parents and key[-1] != "tokenizer_dir"
        if own == folder or is_inside or holds:
            what = f"expected a folder apart from {key}, {path}, got {run_dir}"
            raise ConfigError(what, key=Key("training", "run_dir"))


def _inputs(config: TrainConfig) -> Iterator[tuple[Key, Path]]:
    """Yield the folders that a run is made from, each with its key."""
    from transformerlm.data import fill_placeholders
    from transformerlm.data.corpus import STDLIB

    for name in ("corpus", "validation_corpus"):
        path = Path(getattr(config.data, name) or STDLIB).expanduser()
        if path.is_dir():
            yield Key("data", name), path
        elif set(path.name) & set("*?["):
            yield Key("data", name), path.parent
    yield Key("data", "token_dir"), Path(fill_placeholders(config.data.token_dir, config.data))
    tokenizer_dir = fill_placeholders(config.tokenizer.tokenizer_dir, config.data)
    yield Key("tokenizer", "tokenizer_dir"), Path(tokenizer_dir)
