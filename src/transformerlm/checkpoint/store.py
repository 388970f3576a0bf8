"""Checkpoints: a module and an optimizer in one file, or self-describing folders of a run.

    checkpoints/step_00000500/
        model.safetensors      the weights alone, under their names in the model
        training.safetensors   optimizer, random number generators, and all else that training needs to
        continue
        manifest.json          step, config, fingerprints, size and SHA-256 of the other two; its own checksum

Ranks among which a model is divided write it in parts (parts.py).
A folder appears in one step. Its manifest has the checksums of its members and one of itself, so that every
changed bit in the three files is detected. Nothing is pickled: loading a foreign checkpoint executes no code
from it. A checksum does not vouch for the behaviour of foreign weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import nn

from transformerlm.checkpoint.load_state import check_model_state, load_model_state, load_optimizer_state
from transformerlm.checkpoint.manifest import (
    INDEX,
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
from transformerlm.storage.tree import read_tree, tree_chunks

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

IS_COMPLETE, BEST_VALIDATION, NEWEST_VALIDATION = "is_complete", "best_validation", "newest_validation"
"""Keys in the manifest of a run's checkpoint. A validation is [step, loss, bits per byte], or empty."""

PathOrFile = str | os.PathLike[str] | BinaryIO


def save_checkpoint(
    model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int, out: PathOrFile
) -> None:
    """Write the state of a module and an optimizer, and the iteration, to a path or an open binary file.

    A path is written whole or not at all.

    Raises:
        TypeError: a state holds a value that is no tensor, number, string, list, tuple or dict.
        OutputError: the disk is full.
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
    """Load what `save_checkpoint` wrote into both model and optimizer or, on an error, neither.

    Returns:
        The iteration that was saved.

    Raises:
        CheckpointError: a damaged file, or one of another model or optimizer.
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
    """Commit the folder `step_<step>` below `directory`; it replaces an older one of the same step.

    The older one can be read until the new one is complete.

    Args:
        directory: is made if missing.
        step: completed optimizer steps.
        model_state: weights by name.
        training_state: a tree of all else that training needs to continue.
        about: the run's description of itself, as JSON values.

    Raises:
        CheckpointError: a manifest or header that would be too large to be read again.
        OutputError: the disk is full.
    """
    target = directory / checkpoint_name(step)
    files = {MODEL: tree_chunks(dict(model_state)), TRAINING: tree_chunks(dict(training_state))}
    num_bytes = sum(size for size, _ in files.values())
    with committed_checkpoint(target, num_bytes) as temporary:
        members = {name: write_member(temporary / name, chunks) for name, (_, chunks) in files.items()}
        (temporary / MANIFEST).write_bytes(make_manifest(target, step, about, members))
    return Checkpoint(target, step, dict(about), members)


def write_member(path: Path, chunks: Iterator[bytes | memoryview], *, flush: bool = False) -> dict[str, Any]:
    """Write a member; return its size and SHA-256, computed while writing.

    Args:
        flush: flush it to the disk, where the process that commits the folder may be on another machine.
    """
    digest, num_bytes = hashlib.sha256(), 0
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            num_bytes += len(chunk)
            del chunk  # before the next tensor is made: one at a time
        if flush:
            file.flush()
            os.fsync(file.fileno())
    return {"num_bytes": num_bytes, "sha256": digest.hexdigest()}


@contextlib.contextmanager
def committed_checkpoint(target: Path, num_bytes: int) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target` when the block ends without an error.

    A checkpoint that is there is replaced, and can be read until then. See `committed_directory`.
    """
    with _replaced(target), committed_directory(target, num_bytes) as temporary:
        yield temporary


@contextlib.contextmanager
def _replaced(target: Path) -> Iterator[None]:
    """Context manager for writing `target`: an older checkpoint is kept under a name that readers find too.

    A folder cannot be replaced in one step, and the process may be killed in between. At the end the older
    one is removed if `target` was written, and renamed back if not.
    """
    older = target.with_name(target.name + REPLACED)
    if target.exists():
        # Both exist if a process was killed just after the new one was in place.
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


def checkpoint_name(step: int) -> str:
    """Return the name of the folder of the checkpoint after `step` steps."""
    return f"step_{step:08d}"


def checkpoint_paths(directory: Path) -> list[Path]:
    """Return the checkpoint folders in `directory`, oldest step first, without half-written ones.

    Raises:
        CheckpointError: `directory` exists and cannot be read.
    """
    seen: set[str] | None = None
    while True:
        names = _names(directory)
        paths = [path for path in names.values() if path.is_dir()]
        # A training process may have written others and removed all that were listed: list again.
        if paths or names.keys() == seen:
            return paths
        seen = set(names)


def _names(directory: Path) -> dict[str, Path]:
    """Return name -> path of the checkpoints in `directory`, in the order of their steps."""
    try:
        found = [(path, NAME.fullmatch(path.name)) for path in directory.iterdir()]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be read: {error.strerror}") from None
    ordered = sorted((int(match[1]), not match[2], path) for path, match in found if match)
    return {path.name: path for _, _, path in ordered}


def latest_checkpoint(directory: Path, warn: Callable[[str], object]) -> Checkpoint | None:
    """Return the newest valid checkpoint, or None if there is none at all.

    Args:
        directory: folder of the checkpoint folders.
        warn: called with a message about each damaged one that is skipped.

    Raises:
        CheckpointError: there are checkpoints, but none is valid. Only the user can decide to start from
            scratch.
    """
    tried: set[Path] = set()
    # Listed each time: a training process may write and remove some meanwhile.
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
    """Read the checkpoint at `path`, or the one to use of a run, if `path` is a run's folder.

    That is the best validated one if the run is complete, and the newest valid one if it may go on.

    Args:
        path: folder of a checkpoint or of a run.
        warn: called with a message about each damaged one that is skipped, and if the newest is not used.

    Raises:
        CheckpointError: there is none, or none that is valid.
    """
    if (path / "config.json").exists() and not os.path.lexists(path / MANIFEST):
        what = "a Hugging Face folder, which has to become a run first"
        advice = f'transformerlm-import --from "{path}" runs/{path.absolute().name}-imported'
        raise CheckpointError(f"{path}: {what}: {advice}")
    if any(os.path.lexists(path / name) for name in (MANIFEST, MODEL, TRAINING, INDEX)):
        return read_checkpoint(path)
    found = latest_checkpoint(path / "checkpoints", warn)
    if found is None:
        raise CheckpointError(f"{path}: expected a run's folder or a checkpoint, found no checkpoint there")
    return _best_of_complete_run(found, warn)


def _best_of_complete_run(newest: Checkpoint, warn: Callable[[str], object]) -> Checkpoint:
    """Return the best validated checkpoint of the run, if the newest one is its last and is worse."""
    best, last = (_validation(newest, key) for key in (BEST_VALIDATION, NEWEST_VALIDATION))
    if newest.about.get(IS_COMPLETE) is not True or best is None or last is None:
        return newest
    if best.loss >= last.loss or not best.step < last.step == newest.step:
        return newest
    path = newest.path.with_name(checkpoint_name(best.step))
    if not path.is_dir():  # removed by the user, or there was no time to write it
        return newest
    try:
        found = read_checkpoint(path)
    except CheckpointError as error:
        warn(f"skipped a damaged checkpoint: {error}")
        return newest
    numbers = f"{best.loss:.3f}; the last one, of step {last.step}, has {last.loss:.3f}"
    warn(f"{path}: the best of its run, with a validation loss of {numbers}")
    return found


class _Validated(NamedTuple):
    step: int
    loss: float


def _validation(checkpoint: Checkpoint, key: str) -> _Validated | None:
    """Return a validation in a manifest; None if there is none there."""
    values = checkpoint.about.get(key)
    if not isinstance(values, list) or [type(value) for value in values[:2]] != [int, float]:
        return None
    return _Validated(*values[:2])


def prune_checkpoints(
    directory: Path, keep: int, best_step: int | None, own_steps: Collection[int] = ()
) -> None:
    """Remove all but the newest `keep` valid checkpoints and the one of `best_step`.

    If none is valid, none is removed. Checkpoints of steps later than the newest of `own_steps` are kept:
    they are damaged ones that the run has skipped, and stay for a rescue until training reaches their step
    again.

    Args:
        directory: folder of the checkpoint folders.
        keep: number to keep, in addition to the best.
        best_step: step of the best validation loss.
        own_steps: steps of checkpoints that this process wrote or verified, the one just written included;
            the others are verified here.
    """
    newest = max(own_steps, default=None)
    kept: set[int] = set()
    removable: list[Path] = []
    for path in reversed(checkpoint_paths(directory)):
        step = _step_of(path)
        if newest is not None and step > newest:
            continue
        is_wanted = step not in kept and len(kept) < keep
        if is_wanted and (step in own_steps or _is_valid(path)):
            kept.add(step)
        elif step != best_step or step in kept:
            removable.append(path)
    for path in removable if kept else []:
        if not path.is_symlink():  # a link was put there by the user
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
