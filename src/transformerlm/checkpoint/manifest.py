"""Reading of a run's checkpoint folder: its manifest, and the check of its members against it.

`store` writes checkpoints and chooses among several. A folder may come from anybody: a manifest can name only
files of fixed names, and these have to be regular files, not links.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from transformerlm.errors import CheckpointError
from transformerlm.storage.checksummed_json import RecordFormat, dump, load
from transformerlm.storage.safetensors import Convert, Rows
from transformerlm.storage.tree import load_tree
from transformerlm.storage.untrusted import open_regular, printable

MANIFEST_FORMAT = RecordFormat(
    version=2, checksum_since=2, members={"step": int, "about": dict, "members": dict}
)
MODEL, TRAINING, MANIFEST = "model.safetensors", "training.safetensors", "manifest.json"
INDEX = "model.safetensors.index.json"
"""Of a model in several files: the one that has each tensor."""
MAX_MANIFEST_BYTES = 2**22
"""A thousand times the usual size. Parsed JSON takes many times the memory of its text."""
REPLACED = ".replaced"
"""Suffix of a checkpoint's name while another one of the same step replaces it."""
NAME = re.compile(rf"step_([0-9]{{1,18}})({re.escape(REPLACED)})?")
"""Names of checkpoint folders: the step, and `REPLACED` or nothing."""


@dataclass(frozen=True)
class Checkpoint:
    """A run's checkpoint folder: its manifest, and from `read_checkpoint` its members verified."""

    path: Path
    step: int
    """Completed optimizer steps."""
    about: dict[str, Any]
    """The run's own description: config, fingerprints, versions, losses."""
    members: dict[str, dict[str, Any]]
    """File name -> its num_bytes and sha256."""

    @property
    def num_parts(self) -> int:
        """Number of files of the weights, and as many of the rest: one per rank that wrote its own."""
        return num_parts(self.members)

    def model_state(self, convert: Convert | None = None, rows: Rows | None = None) -> dict[str, Any]:
        """Load the weights by name, on the CPU: tensors, or what `convert` makes of each as it is read.

        Args:
            rows: chooses the rows that are read of each tensor; None: all.
        """
        return self._load(MODEL, convert, rows)

    def training_state(self, convert: Convert | None = None, rows: Rows | None = None) -> dict[str, Any]:
        """Load all else that training needs to continue: optimizer, random number generators, counters.

        `convert` and `rows` get the path of each tensor as its name, such as "optimizer.state.0.exp_avg".
        """
        return self._load(TRAINING, convert, rows)

    def require(self, *keys: str) -> Any:
        """Return the value in `about` under nested keys.

        Raises:
            CheckpointError: there is none.
        """
        value: Any = self.about
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                raise CheckpointError(f"{self.path / MANIFEST}: about: {'.'.join(keys)}: missing")
            value = value[key]
        return value

    def verify(self) -> None:
        """Compare the size and SHA-256 of every member with the manifest.

        Raises:
            CheckpointError: names the first member that differs.
        """
        for name, expected in self.members.items():
            with _open_member(self.path / name) as file:
                size = os.fstat(file.fileno()).st_size
                if size != expected["num_bytes"]:
                    what = f"expected {expected['num_bytes']} bytes, got {size}"
                    raise CheckpointError(f"{self.path / name}: {what}")
                digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            if digest != expected["sha256"]:
                what = f"expected SHA-256 {expected['sha256']}, got {digest}"
                raise CheckpointError(f"{self.path / name}: {what}")

    def _load(self, name: str, convert: Convert | None, rows: Rows | None) -> dict[str, Any]:
        paths = [self.path / part for part in part_names(name, self.num_parts)]
        tree = load_file(*paths, follow_link=False, convert=convert, rows=rows)
        if not isinstance(tree, dict):
            raise CheckpointError(f"{paths[0]}: expected a table, got a {type(tree).__name__}")
        return tree


def part_names(name: str, number: int) -> list[str]:
    """Return the names of `number` files in the place of one: model-00001-of-00002.safetensors, ..."""
    stem = name.removesuffix(".safetensors")
    several = [f"{stem}-{part:05d}-of-{number:05d}.safetensors" for part in range(1, number + 1)]
    return several if number > 1 else [name]


def num_parts(members: Collection[str]) -> int:
    """Return the number of files of the weights among these names of files."""
    return max(1, sum(name.startswith("model-") for name in members))


def member_names(number: int) -> set[str]:
    """Return the names of the members of a checkpoint whose weights are in `number` files."""
    index = {INDEX} if number > 1 else set()
    return {*part_names(MODEL, number), *part_names(TRAINING, number), *index}


def make_manifest(path: Path, step: int, about: Mapping[str, Any], members: Mapping[str, Any]) -> bytes:
    """Return the content of the manifest of the checkpoint that will be at `path`.

    Raises:
        CheckpointError: it would be too large to be read again.
    """
    values = {"step": step, "about": dict(about), "members": dict(members)}
    content = dump({"format_version": MANIFEST_FORMAT.version, **values})
    _check_size(path / MANIFEST, len(content))
    return content


def _check_size(manifest_path: Path, size: int) -> None:
    if size > MAX_MANIFEST_BYTES:
        what = f"expected at most {MAX_MANIFEST_BYTES:,} bytes, got {size:,}"
        raise CheckpointError(f"{manifest_path}: {what}")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint's manifest and verify its members.

    Raises:
        CheckpointError: one line that names the file and what is wrong with it.
    """
    checkpoint = read_manifest(path)
    checkpoint.verify()
    return checkpoint


def read_manifest(path: Path) -> Checkpoint:
    """Read a checkpoint's manifest, whose own checksum is verified; its members are not read.

    Raises:
        CheckpointError: one line that names the file and what is wrong with it.
    """
    manifest_path = path / MANIFEST
    with _open_member(manifest_path) as file:
        _check_size(manifest_path, os.fstat(file.fileno()).st_size)
        content = file.read()
    try:
        return _parse_manifest(content, path)
    except ValueError as error:
        raise CheckpointError(f"{manifest_path}: {printable(error)}") from None


def _parse_manifest(content: bytes, path: Path) -> Checkpoint:
    manifest = load(content, MANIFEST_FORMAT)
    step, about, members = manifest["step"], manifest["about"], manifest["members"]
    if step < 0:
        raise ValueError(f"expected a step of at least 0, got {step}")
    named = NAME.fullmatch(path.name)
    if named and int(named[1]) != step:
        raise ValueError(f"expected step {int(named[1])}, as its folder says, got {step}")
    if members.keys() != member_names(num_parts(members)):
        what = f"expected the members {MODEL} and {TRAINING}, or all parts of both and {INDEX}"
        raise ValueError(f"{what}, got {printable(members, 80)}")
    if not all(map(_is_description, members.values())):
        raise ValueError("expected num_bytes and sha256 of each member")
    return Checkpoint(path, step, about, members)


def _is_description(member: Any) -> bool:
    is_table = isinstance(member, dict) and member.keys() == {"num_bytes", "sha256"}
    return is_table and type(member["num_bytes"]) is int and isinstance(member["sha256"], str)


def load_file(
    *paths: Path, follow_link: bool, convert: Convert | None = None, rows: Rows | None = None
) -> Any:
    """Read a tree like `load_tree`.

    Raises:
        CheckpointError: not whole files of a tree, or ones that cannot be read.
    """
    try:
        return load_tree(*paths, follow_link=follow_link, convert=convert, rows=rows)
    except OSError as error:
        path = error.filename or paths[0]
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None


@contextlib.contextmanager
def _open_member(path: Path) -> Iterator[BinaryIO]:
    try:
        with open_regular(path, follow_link=False) as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path}: expected a file, got none") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
