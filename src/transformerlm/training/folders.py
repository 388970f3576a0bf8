"""Check of a run's folder: not that of the text, of the token files or of the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from transformerlm.config import STDLIB, DataConfig, TokenizerConfig, TrainConfig
from transformerlm.errors import ConfigError, Key
from transformerlm.schema import are_known


def check_folders(config: TrainConfig, run_dir: Path) -> None:
    """Refuse a folder for a new run that is the folder of something that the run is made from.

    Nor may a run hold its corpus, or be in the folder of its token files: errors advise to remove these
    folders. A run below the corpus' folder is no text of it; token files and tokenizer may be in the folder
    of the run, where its own parts are not.

    Raises:
        ConfigError: the folder cannot be that of the run.
    """
    own = run_dir.resolve()
    is_new = not any((run_dir / "checkpoints").glob("step_*"))
    for key, path in _inputs(config):
        folder = path.resolve()
        if _needs_lock_of(own, key[-1], folder):
            raise _not_apart(key, path, run_dir)
        if not is_new:
            continue  # it has been the run's all along
        is_corpus = key[-1] in ("corpus", "validation_corpus", "path")
        is_inside = folder in own.parents and not is_corpus
        holds = own in folder.parents and is_corpus
        is_part = key[-1] == "token_dir" and not {folder, *folder.parents}.isdisjoint(_parts(own))
        if own == folder or is_inside or holds or is_part:
            raise _not_apart(key, path, run_dir)


def _needs_lock_of(own: Path, key: str, folder: Path) -> bool:
    """Return True if making the folder takes the lock of `own`, which the run itself holds."""
    if key == "tokenizer_dir":
        return own == folder.parent and not folder.exists()
    return key == "token_dir" and own == folder


def _not_apart(key: Key, path: Path, run_dir: Path) -> ConfigError:
    what = f"expected a folder apart from {key}, {path}, got {run_dir}"
    return ConfigError(what, key=Key("training", "run_dir"))


def _parts(run_dir: Path) -> list[Path]:
    return [run_dir / "checkpoints", run_dir / "tokenizer"]


def _inputs(config: TrainConfig) -> Iterator[tuple[Key, Path]]:
    """Yield the folders, or the file, that a run is made from, each with its key."""
    from transformerlm.data import fill_placeholders

    mixture = config.data.mixture or ()
    named = [
        *((Key("data", name), getattr(config.data, name)) for name in ("corpus", "validation_corpus")),
        *((Key("data", "mixture", str(number), "path"), part.path) for number, part in enumerate(mixture)),
    ]
    for key, text in named:
        path = Path(text or STDLIB).expanduser()
        if path.exists():
            yield key, path
        elif set(path.name) & set("*?["):
            yield key, path.parent
    for key, folder, default in (
        (Key("data", "token_dir"), config.data.token_dir, DataConfig().token_dir),
        (Key("tokenizer", "tokenizer_dir"), config.tokenizer.tokenizer_dir, TokenizerConfig().tokenizer_dir),
    ):
        # A folder that is chosen is in the default one.
        yield key, Path(fill_placeholders(folder if are_known(folder) else default, config.data))
