"""A run's checkpoint as it is read: a folder, its manifest, and whether its members are what that promises.

How it is written, and which of several is taken, is told in checkpoint.py. The folder may come from anybody:
its manifest names two files of fixed names, which are neither links nor anything that does not end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from transformerlm.errors import CheckpointError
from transformerlm.storage.checksummed_json import RecordFormat, dump, load
from transformerlm.storage.safetensors import load_tree, open_regular, printable

FORMAT_VERSION = 2
"""1 had no checksum."""
MANIFEST_FORMAT = RecordFormat(
    version=FORMAT_VERSION, checksum_since=2, members={"step": int, "about": dict, "members": dict}
)
MODEL, TRAINING, MANIFEST = "model.safetensors", "training.safetensors", "manifest.json"
MAX_MANIFEST_BYTES = 2**22
"""A thousand times what it takes. What Python makes of JSON takes many times its size."""
REPLACED = ".replaced"
"""Behind the name of a checkpoint that another one of the same step is about to replace."""
NAME = re.compile(rf"step_([0-9]{{1,18}})({re.escape(REPLACED)})?")
"""Of a checkpoint's folder."""


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
        return self._load(MODEL)

    def training_state(self) -> dict[str, Any]:
        """What else it takes to go on."""
        return self._load(TRAINING)

    def told(self, *keys: str) -> Any:
        """What `about` says under these keys, one inside the other; CheckpointError where it says nothing."""
        value: Any = self.about
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                raise CheckpointError(f"{self.path / MANIFEST}: about: {'.'.join(keys)}: missing")
            value = value[key]
        return value

    def verify(self) -> None:
        """Compare every member with the manifest; CheckpointError names the first that differs."""
        for name, promised in self.members.items():
            with _opened(self.path / name) as file:
                size = os.fstat(file.fileno()).st_size
                if size != promised["num_bytes"]:
                    what = f"expected {promised['num_bytes']} bytes, got {size}"
                    raise CheckpointError(f"{self.path / name}: {what}")
                digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            if digest != promised["sha256"]:
                what = f"expected SHA-256 {promised['sha256']}, got {digest}"
                raise CheckpointError(f"{self.path / name}: {what}")

    def _load(self, name: str) -> dict[str, Any]:
        tree = load_file(self.path / name, follow_link=False)
        if not isinstance(tree, dict):
            raise CheckpointError(f"{self.path / name}: expected a table, got a {type(tree).__name__}")
        return tree


def make_manifest(path: Path, step: int, about: Mapping[str, Any], members: Mapping[str, Any]) -> bytes:
    """The manifest of the checkpoint that will be at `path`; CheckpointError where it would be too large."""
    content = dump(
        {"format_version": FORMAT_VERSION, "step": step, "about": dict(about), "members": dict(members)}
    )
    _check_size(path / MANIFEST, len(content))
    return content


def _check_size(manifest_path: Path, size: int) -> None:
    if size > MAX_MANIFEST_BYTES:
        what = f"expected at most {MAX_MANIFEST_BYTES:,} bytes, got {size:,}"
        raise CheckpointError(f"{manifest_path}: {what}")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint's manifest and verify its members.

    Raises:
        CheckpointError: in one line that names the file and what is wrong with it.
    """
    manifest_path = path / MANIFEST
    with _opened(manifest_path) as file:
        _check_size(manifest_path, os.fstat(file.fileno()).st_size)
        content = file.read()
    try:
        checkpoint = _parse_manifest(content, path)
    except ValueError as error:
        raise CheckpointError(f"{manifest_path}: {printable(error)}") from None
    checkpoint.verify()
    return checkpoint


def _parse_manifest(content: bytes, path: Path) -> Checkpoint:
    manifest = load(content, MANIFEST_FORMAT)
    step, about, members = manifest["step"], manifest["about"], manifest["members"]
    if step < 0:
        raise ValueError(f"expected a step of at least 0, got {step}")
    named = NAME.fullmatch(path.name)
    if named and int(named[1]) != step:
        raise ValueError(f"expected step {int(named[1])}, as its folder says, got {step}")
    if members.keys() != {MODEL, TRAINING}:
        raise ValueError(f"expected the members {MODEL} and {TRAINING}, got {printable(members, 80)}")
    if not all(map(_is_promise, members.values())):
        raise ValueError("expected num_bytes and sha256 of each member")
    return Checkpoint(path, step, about, members)


def _is_promise(member: Any) -> bool:
    is_table = isinstance(member, dict) and member.keys() == {"num_bytes", "sha256"}
    return is_table and type(member["num_bytes"]) is int and isinstance(member["sha256"], str)


def load_file(path: Path, *, follow_link: bool) -> Any:
    """`load_tree`, for which a file that cannot be read is a CheckpointError too."""
    try:
        return load_tree(path, follow_link=follow_link)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open_regular(path, follow_link=False) as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path}: expected a file, got none") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
