"""Checkpoints: any module and optimizer in one file; and a run's own, folders that explain themselves.

    checkpoints/step_00000500/
        model.safetensors      the weights alone, under their names in the model
        training.safetensors   optimizer, random number generators, and what else it takes to go on
        manifest.json          step, config, fingerprints, and size and SHA-256 of the other two

A folder appears in one step, and its manifest vouches for its members. Nothing is pickled, so that
loading a stranger's checkpoint runs none of the stranger's code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from transformerlm.errors import CheckpointError
from transformerlm.files import committed_directory, committed_file, remove_directory, sha256_of
from transformerlm.tensorfile import dump_tree, load_tree, parse_tree, save_tree

FORMAT_VERSION = 1
MODEL, TRAINING, MANIFEST = "model.safetensors", "training.safetensors", "manifest.json"

PathOrFile = str | os.PathLike[str] | BinaryIO


def save_checkpoint(
    model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int, out: PathOrFile
) -> None:
    """Write the state of a module, an optimizer and the iteration count to a path or a binary file.

    A path is written whole or not at all.
    """
    tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iteration": iteration}
    if not isinstance(out, str | os.PathLike):
        out.write(dump_tree(tree))
        return
    with committed_file(out) as file:
        file.write(dump_tree(tree))


def load_checkpoint(src: PathOrFile, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore what `save_checkpoint` wrote into `model` and `optimizer`; the iteration comes back.

    Raises:
        CheckpointError: for a damaged file, or one of another model or optimizer.
    """
    if isinstance(src, str | os.PathLike):
        name, tree = str(src), _load_member(Path(src))
    else:
        name, tree = "checkpoint", parse_tree(src.read(), "checkpoint")
    if not isinstance(tree, dict) or tree.keys() != {"model", "optimizer", "iteration"}:
        raise CheckpointError(f"{name}: not a checkpoint: expected model, optimizer and iteration")
    load_model_state(model, tree["model"], name)
    load_optimizer_state(optimizer, tree["optimizer"], name)
    return int(tree["iteration"])


def load_model_state(model: nn.Module, state: Mapping[str, Any], name: str) -> None:
    """`model.load_state_dict`, strict, after comparing every name and shape: all or nothing.

    Raises:
        CheckpointError: with one line per tensor that is missing, unknown or of another shape.
    """
    own = model.state_dict()
    problems = [f"{name}: {key}: missing" for key in own.keys() - state.keys()]
    problems += [f"{name}: {key}: the model has no such tensor" for key in state.keys() - own.keys()]
    for key in own.keys() & state.keys():
        expected, got = (tuple(getattr(values[key], "shape", ())) for values in (own, state))
        if expected != got:
            problems.append(f"{name}: {key}: expected shape {expected}, got {got}")
    if problems:
        raise CheckpointError(sorted(problems))
    model.load_state_dict(dict(state))


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any], name: str) -> None:
    """`optimizer.load_state_dict` whose refusal is a CheckpointError."""
    try:
        optimizer.load_state_dict(state)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{name}: the optimizer's state does not fit: {error}") from None


@dataclass(frozen=True)
class Checkpoint:
    """A run's checkpoint folder whose manifest has been read."""

    path: Path
    step: int
    """Optimizer steps that had been completed."""
    about: dict[str, Any]
    """What the run said of itself: config, fingerprints, versions, losses."""
    members: dict[str, dict[str, Any]]
    """File name -> num_bytes and sha256."""

    def model_state(self) -> dict[str, Tensor]:
        """The weights by name, on the CPU."""
        return dict(_load_member(self.path / MODEL))

    def training_state(self) -> dict[str, Any]:
        """What else it takes to go on."""
        return dict(_load_member(self.path / TRAINING))

    def verify(self) -> None:
        """Compare every member with the manifest; CheckpointError names the first that differs."""
        for name, promised in self.members.items():
            member = self.path / name
            size = member.stat().st_size if member.is_file() else "no file"
            if size != promised["num_bytes"]:
                raise CheckpointError(f"{member}: expected {promised['num_bytes']} bytes, got {size}")
            digest = sha256_of(member)
            if digest != promised["sha256"]:
                raise CheckpointError(f"{member}: expected SHA-256 {promised['sha256']}, got {digest}")


def write_checkpoint(
    directory: Path,
    step: int,
    model_state: Mapping[str, Any],
    training_state: Mapping[str, Any],
    about: Mapping[str, Any],
) -> Checkpoint:
    """Commit `step_<step>` below `directory`, in the place of an older one of the same step."""
    target = directory / f"step_{step:08d}"
    if target.exists():
        remove_directory(target)
    with committed_directory(target) as temporary:
        members = {}
        for name, tree in ((MODEL, dict(model_state)), (TRAINING, dict(training_state))):
            save_tree(tree, temporary / name)
            size = (temporary / name).stat().st_size
            members[name] = {"num_bytes": size, "sha256": sha256_of(temporary / name)}
        manifest = {"format_version": FORMAT_VERSION, "step": step, "about": dict(about), "members": members}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return Checkpoint(target, step, dict(about), members)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint's manifest and verify its members.

    Raises:
        CheckpointError: in one line that names the file and what is wrong with it.
    """
    manifest_path = path / MANIFEST
    try:
        manifest = json.loads(manifest_path.read_bytes())
        version = manifest["format_version"]
        if version > FORMAT_VERSION:
            known = f"this version knows formats up to {FORMAT_VERSION}; update the package"
            raise CheckpointError(f"{manifest_path}: format {version}: {known}")
        checkpoint = Checkpoint(path, manifest["step"], manifest["about"], manifest["members"])
    except OSError as error:
        raise CheckpointError(f"{manifest_path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{manifest_path}: not a manifest: {type(error).__name__}: {error}") from None
    checkpoint.verify()
    return checkpoint


def checkpoint_paths(directory: Path) -> list[Path]:
    """The checkpoint folders in `directory`, oldest step first; half-written ones have other names."""
    return sorted(path for path in directory.glob("step_*") if path.is_dir())


def latest_checkpoint(directory: Path, warn: Callable[[str], object]) -> Checkpoint | None:
    """The newest valid checkpoint; None where there is none at all. Damaged ones are told to `warn`.

    Raises:
        CheckpointError: where there are checkpoints, but none is valid: starting from zero must be
            somebody's decision.
    """
    paths = checkpoint_paths(directory)
    for path in reversed(paths):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            warn(f"skipped a damaged checkpoint: {error}")
    if paths:
        raise CheckpointError(
            f"{directory}: none of {len(paths)} checkpoints is valid; remove them to start anew"
        )
    return None


def open_checkpoint(path: Path, warn: Callable[[str], object]) -> Checkpoint:
    """A checkpoint by its own folder, or the newest valid one of a run's folder."""
    if (path / MANIFEST).is_file():
        return read_checkpoint(path)
    found = latest_checkpoint(path / "checkpoints", warn)
    if found is None:
        raise CheckpointError(f"{path}: expected a run's folder or a checkpoint, found no checkpoint there")
    return found


def prune_checkpoints(directory: Path, keep: int, best_step: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and the one of `best_step`."""
    for path in checkpoint_paths(directory)[:-keep]:
        if path.name != f"step_{best_step or 0:08d}":
            remove_directory(path)


def _load_member(path: Path) -> Any:
    try:
        return load_tree(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
