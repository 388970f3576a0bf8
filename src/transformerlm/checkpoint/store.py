"""Checkpoints: any module and optimizer in one file; and a run's own, folders that explain themselves.

    checkpoints/step_00000500/
        model.safetensors      the weights alone, under their names in the model
        training.safetensors   optimizer, random number generators, and what else it takes to go on
        manifest.json          step, config, fingerprints, size and SHA-256 of the other two; sealed

A folder appears in one step, and its manifest vouches for its members and for itself (sealed.py): no bit of
the three can change unseen. Nothing is pickled, so that loading a stranger's checkpoint runs none of the
stranger's code; what the stranger's numbers do in a model, no checksum says.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from transformerlm.checkpoint.load_state import check_model_state, load_model_state, load_optimizer_state
from transformerlm.checkpoint.manifest import (
    MANIFEST,
    MODEL,
    NAME,
    REPLACED,
    TRAINING,
    Checkpoint,
    load_file,
    make_manifest,
    read_checkpoint,
)
from transformerlm.errors import CheckpointError
from transformerlm.storage.files import committed_directory, committed_file, remove_directory
from transformerlm.storage.safetensors import read_tree, tree_chunks

__all__ = [
    "Checkpoint",
    "checkpoint_paths",
    "latest_checkpoint",
    "load_checkpoint",
    "load_model_state",
    "load_optimizer_state",
    "open_checkpoint",
    "prune_checkpoints",
    "read_checkpoint",
    "save_checkpoint",
    "write_checkpoint",
]

PathOrFile = str | os.PathLike[str] | BinaryIO


def save_checkpoint(
    model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int, out: PathOrFile
) -> None:
    """Write the state of a module, an optimizer and the iteration count to a path or a binary file.

    A path is written whole or not at all.
    """
    _, chunks = tree_chunks(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iteration": iteration}
    )
    with contextlib.ExitStack() as stack:
        if isinstance(out, str | os.PathLike):
            out = stack.enter_context(committed_file(out))
        for chunk in chunks:
            out.write(chunk)


def load_checkpoint(src: PathOrFile, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore what `save_checkpoint` wrote into both or, on an error, neither; the iteration comes back.

    Raises:
        CheckpointError: for a damaged file, or one of another model or optimizer.
    """
    if isinstance(src, str | os.PathLike):
        name, tree = str(src), load_file(Path(src), follow_link=True)
    else:
        name, tree = "checkpoint", read_tree(src, "checkpoint")
    if not isinstance(tree, dict) or tree.keys() != {"model", "optimizer", "iteration"}:
        raise CheckpointError(f"{name}: not a checkpoint: expected model, optimizer and iteration")
    iteration = tree["iteration"]
    if type(iteration) is not int:
        raise CheckpointError(f"{name}: iteration: expected a number, got a {type(iteration).__name__}")
    check_model_state(model, tree["model"], name)
    load_optimizer_state(optimizer, tree["optimizer"], name)
    load_model_state(model, tree["model"], name)
    return iteration


def write_checkpoint(
    directory: Path,
    step: int,
    model_state: Mapping[str, Any],
    training_state: Mapping[str, Any],
    about: Mapping[str, Any],
) -> Checkpoint:
    """Commit `step_<step>` below `directory`, in the place of an older one of the same step.

    Until the new one is there the older one is.

    Raises:
        OutputError: the disk is full.
    """
    target = directory / f"step_{step:08d}"
    files = {MODEL: tree_chunks(dict(model_state)), TRAINING: tree_chunks(dict(training_state))}
    num_bytes = sum(size for size, _ in files.values())
    with _replaced(target), committed_directory(target, num_bytes) as temporary:
        members = {name: _write(temporary / name, chunks) for name, (_, chunks) in files.items()}
        (temporary / MANIFEST).write_bytes(make_manifest(target, step, about, members))
    return Checkpoint(target, step, dict(about), members)


def _write(path: Path, chunks: Iterator[bytes | memoryview]) -> dict[str, Any]:
    """Write a member; what the manifest says of it is counted on the way, and not by reading it again."""
    digest, num_bytes = hashlib.sha256(), 0
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            num_bytes += len(chunk)
    return {"num_bytes": num_bytes, "sha256": digest.hexdigest()}


@contextlib.contextmanager
def _replaced(target: Path) -> Iterator[None]:
    """Around the making of `target`: an older one waits beside it, under a name that readers know.

    A folder cannot be replaced in one step, and a process can be killed between two.
    """
    older = target.with_name(target.name + REPLACED)
    if target.exists():
        # Both are there where a process was killed when the new one was in place, or has since been damaged.
        if older.exists():
            _remove(older if _is_valid(target) else target)
        if target.exists():
            target.rename(older)
    try:
        yield
    except BaseException:
        if older.exists() and not target.exists():
            older.rename(target)
        raise
    if older.exists():
        _remove(older)


def checkpoint_paths(directory: Path) -> list[Path]:
    """The checkpoint folders in `directory`, oldest step first; half-written ones have other names.

    Raises:
        CheckpointError: where there is such a folder, but it cannot be read.
    """
    seen: set[str] | None = None
    while True:
        names = _names(directory)
        paths = [path for path in names.values() if path.is_dir()]
        # Who trains here may have removed all that were listed, after it had written others: look again.
        if paths or names.keys() == seen:
            return paths
        seen = set(names)


def _names(directory: Path) -> dict[str, Path]:
    """The names of checkpoints in `directory`, by step."""
    try:
        found = [(path, NAME.fullmatch(path.name)) for path in directory.iterdir()]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be read: {error.strerror}") from None
    ordered = sorted((int(match[1]), not match[2], path) for path, match in found if match)
    return {path.name: path for _, _, path in ordered}


def latest_checkpoint(directory: Path, warn: Callable[[str], object]) -> Checkpoint | None:
    """The newest valid checkpoint; None where there is none at all. Damaged ones are told to `warn`.

    Raises:
        CheckpointError: where there are checkpoints, but none is valid: starting from zero must be
            somebody's decision.
    """
    tried: set[Path] = set()
    # Looked for anew each time: who trains here may write and remove some while this one reads.
    while paths := [path for path in checkpoint_paths(directory) if path not in tried]:
        try:
            return read_checkpoint(paths[-1])
        except CheckpointError as error:
            warn(f"skipped a damaged checkpoint: {error}")
        tried.add(paths[-1])
    if tried:
        raise CheckpointError(
            f"{directory}: none of {len(tried)} checkpoints is valid; remove them to start anew"
        )
    return None


def open_checkpoint(path: Path, warn: Callable[[str], object]) -> Checkpoint:
    """A checkpoint by its own folder, or the newest valid one of a run's folder."""
    if any(os.path.lexists(path / name) for name in (MANIFEST, MODEL, TRAINING)):
        return read_checkpoint(path)
    found = latest_checkpoint(path / "checkpoints", warn)
    if found is None:
        raise CheckpointError(f"{path}: expected a run's folder or a checkpoint, found no checkpoint there")
    return found


def prune_checkpoints(
    directory: Path, keep: int, best_step: int | None, own_steps: Collection[int] = ()
) -> None:
    """Remove all but the newest `keep` valid checkpoints and the one of `best_step`.

    `own_steps` are those that this process has written or read, the one just written among them: they are
    valid, the others are verified. Those of later steps, which it went back past, do not count: damaged as
    they are somebody may want to save what can be saved of them, until training comes to their step again.
    Where none is valid, none is removed.
    """
    newest = max(own_steps, default=None)
    kept: set[int] = set()
    spare: list[Path] = []
    for path in reversed(checkpoint_paths(directory)):
        step = _step_of(path)
        if newest is not None and step > newest:
            continue
        is_wanted = step not in kept and len(kept) < keep
        if is_wanted and (step in own_steps or _is_valid(path)):
            kept.add(step)
        elif step != best_step or step in kept:
            spare.append(path)
    for path in spare if kept else []:
        if not path.is_symlink():  # somebody has put it there
            _remove(path)


def _step_of(path: Path) -> int:
    return int(path.name.removesuffix(REPLACED).removeprefix("step_"))


def _is_valid(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _remove(path: Path) -> None:
    path.unlink() if path.is_symlink() else remove_directory(path)
