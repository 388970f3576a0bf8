"""Listing of files: those below a folder or matched by a glob, each once, and those that are passed over."""

from __future__ import annotations

import fnmatch
import glob
import json
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

from transformerlm.data.reading.archives import archive_format, members
from transformerlm.data.reading.streams import inner_name
from transformerlm.data.sidecar import UNFINISHED
from transformerlm.errors import DataError
from transformerlm.storage.lock import LOCK_FILE

RECORD_FILE = ".corpus.json"
"""The record of a corpus' files beside its token files (`file_record.py`)."""

# Files that this package writes (token files, and the folders of tokenizers, runs and sweeps) are not text of
# the corpus, even if they are in its folder.
_OUTPUT_SUFFIXES = (".memmap", ".memmap.json")
_OUTPUT_FOLDERS = (
    {"vocab.json", "merges.txt"},
    {"config.toml", "metrics.jsonl"},
    {"sweep.jsonl", "trials"},
)
_HIDDEN_MEMBERS = (".", "__MACOSX")
"""Beginnings of names in archives; the second is of a folder that macOS adds, of what is no text."""
_OWN_HIDDEN = (LOCK_FILE, UNFINISHED, RECORD_FILE)


class Found(NamedTuple):
    """A file of a corpus, before its content has been looked at."""

    name: str
    """Relative to the corpus, with forward slashes."""
    path: str
    num_bytes: int
    modified: int
    """Time of the last change of the content, in nanoseconds; of a member of an archive, the archive's."""
    changed: int
    """Time of the last change of content, name or rights, in nanoseconds."""
    is_link: bool
    identity: Hashable
    """Device and inode, which all names of one file share (where the system has them)."""
    archive: str = ""
    """Format of the archive of which it is a member: one of `archives.ARCHIVES`."""

    @classmethod
    def of(cls, name: str, path: str, status: os.stat_result, *, is_link: bool) -> Found:
        """Return a file with its identity."""
        times = status.st_mtime_ns, status.st_ctime_ns
        return cls(name, path, status.st_size, *times, is_link, identity_of(status, path))


class Listing:
    """Files that were found, in any order, and what was passed over."""

    def __init__(self) -> None:
        self.files: list[Found] = []
        self.passed_over: defaultdict[str, list[str]] = defaultdict(list)
        """Kind (see `kinds.REASONS`) -> names."""

    @classmethod
    def of_folder(cls, folder: str, skipped: Collection[str] = ()) -> Listing:
        """List a folder and all below it, links followed, each folder once; `skipped` are names of folders.

        Raises:
            DataError: a folder cannot be read.
        """
        listing = cls()
        waiting, seen = [(folder, "")], set[Hashable]()
        while waiting:
            path, prefix = waiting.pop()
            own, entries = _scan(path)
            if own in seen:
                listing.passed_over["link"].append(prefix)
                continue
            seen.add(own)
            if prefix and any(names <= {entry.name for entry in entries} for names in _OUTPUT_FOLDERS):
                listing.passed_over["output"].append(prefix)
                continue
            entries = listing._without_descriptions(path, entries, prefix)
            folders = [name for entry in entries for name in listing._add_entry(entry, prefix)]
            folders = sorted(set(folders).difference(skipped), reverse=True)
            waiting += [(os.path.join(path, name), f"{prefix}{name}/") for name in folders]  # noqa: PTH118
        return listing

    @classmethod
    def of_archive(cls, path: Path, max_bytes: int) -> Listing:
        """List the members of an archive.

        Raises:
            DataError: the archive is damaged, or unpacks to more than `max_bytes`.
        """
        listing = cls()
        file = Found.of(path.name, str(path), path.stat(), is_link=path.is_symlink())
        listing.files = list(listing._members_of(file, archive_format(str(path)), max_bytes))
        return listing

    @classmethod
    def of_glob(cls, pattern: str) -> Listing:
        """List what a glob matches; `files` and `passed_over` are empty if that is nothing."""
        listing = cls()
        # Path.glob would need the pattern divided into a folder and the rest, and does not support absolute
        # ones.
        for match in glob.glob(pattern, recursive=True):  # noqa: PTH207
            is_folder = listing._add(
                Path(match).as_posix(), match, Path(match).is_symlink(), Path(match).stat
            )
            if is_folder and "**" not in pattern:
                listing.passed_over["folder"].append(Path(match).as_posix())
        return listing

    def only(self, suffix: str) -> Self:
        """Keep the files of a suffix, and forget everything else."""
        self.files = [file for file in self.files if file.name.endswith(suffix)]
        self.passed_over.clear()
        return self

    def chosen(self, include: Collection[str]) -> list[Found]:
        """Return the files whose names match, in the order of their names, each by one name that is no link.

        The other names of a file are added to `passed_over`; what would not have matched is removed there.
        """
        # By their names, all of which differ. A text that is compressed keeps its place among the others.
        files = sorted(self.files, key=lambda file: (inner_name(file.name), file.name))
        if "*" not in include:
            matches = re.compile("|".join(map(fnmatch.translate, include)) or r"(?!)").match
            files = [file for file in files if matches(file.name.rpartition("/")[2])]
            for kind in {"broken", "special"} & self.passed_over.keys():
                names = self.passed_over.pop(kind)
                if chosen := [name for name in names if matches(name.rpartition("/")[2])]:
                    self.passed_over[kind] = chosen
        if len({file.identity for file in files}) < len(files):
            files = self._each_once(files)
        return files

    def with_members(self, files: Iterable[Found], max_bytes: int) -> Iterator[Found]:
        """Yield files, and in place of an archive its members; what of them is no text is passed over.

        Args:
            max_bytes: number of bytes that an archive may unpack to.

        Raises:
            DataError: an archive is damaged, or unpacks to more.
        """
        for file in files:
            archive = "" if file.archive else archive_format(file.path)
            yield from self._members_of(file, archive, max_bytes) if archive else [file]

    def suffixes(self) -> str:
        """Return how many files there are of the commonest suffixes."""
        counts = Counter(Path(file.name).suffix or "(no suffix)" for file in self.files)
        commonest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:8]
        return ", ".join(f"{number} {suffix}" for suffix, number in commonest) or "no files"

    def _members_of(self, file: Found, archive: str, max_bytes: int) -> Iterator[Found]:
        """Yield the members of an archive by name, without what is passed over in a folder."""
        found = members(file.path)
        if sum(member.text_bytes for member in found.values()) > max_bytes:
            what = f"its {len(found):,} members unpack to more than {max_bytes:,} bytes"
            raise DataError(f"{file.path}: {what}; --data.max_unpacked_bytes=... allows more")
        for name, member in sorted(found.items()):
            whole = f"{file.name}/{name}"
            if any(part.startswith(_HIDDEN_MEMBERS) and part not in (".", "..") for part in name.split("/")):
                self.passed_over["hidden"].append(whole)
            elif member.obstacle or name.endswith(_OUTPUT_SUFFIXES):
                self.passed_over[member.obstacle or "output"].append(whole)
            else:
                yield file._replace(
                    name=whole,
                    path=f"{file.path}/{name}",
                    num_bytes=member.num_bytes,
                    identity=(file.identity, name),
                    archive=archive,
                )

    def _each_once(self, files: list[Found]) -> list[Found]:
        by_identity: dict[Hashable, Found] = {}
        for file in sorted(files, key=lambda file: file.is_link):
            if by_identity.setdefault(file.identity, file) is not file:
                self.passed_over["link"].append(file.name)
        kept = set(by_identity.values())
        return [file for file in files if file in kept]

    def _without_descriptions(
        self, path: str, entries: list[os.DirEntry[str]], prefix: str
    ) -> list[os.DirEntry[str]]:
        """Pass over the files of a folder that describe a dataset; return the others."""
        descriptions = _descriptions_of_dataset(path, {entry.name for entry in entries})
        if descriptions:
            self.passed_over["saved"] += [f"{prefix}{name}" for name in descriptions]
        return [entry for entry in entries if entry.name not in descriptions]

    def _add_entry(self, entry: os.DirEntry[str], prefix: str) -> list[str]:
        """Add an entry of a folder; return its name if it is a folder to be listed too."""
        name = entry.name
        if name.startswith("."):
            if name not in _OWN_HIDDEN:
                self.passed_over["hidden"].append(prefix + name)
            return []
        return [name] * self._add(prefix + name, entry.path, entry.is_symlink(), entry.stat)

    def _add(self, name: str, path: str, is_link: bool, stat_of: Callable[[], os.stat_result]) -> bool:
        """Add a path if it is a file; return True if it is a folder."""
        try:
            status = stat_of()
        except OSError as error:
            if is_link:
                self.passed_over["broken"].append(name)
            elif not isinstance(error, FileNotFoundError):  # removed since the folder was listed
                raise DataError(f"{path}: cannot be read: {error.strerror}") from None
            return False
        if stat.S_ISDIR(status.st_mode):
            return True
        if not stat.S_ISREG(status.st_mode):
            self.passed_over["special"].append(name)
        elif name.endswith(_OUTPUT_SUFFIXES):
            self.passed_over["output"].append(name)
        else:
            self.files.append(Found.of(name, path, status, is_link=is_link))
        return False


def _descriptions_of_dataset(path: str, names: set[str]) -> set[str]:
    """Return those files of a folder that describe a dataset which `datasets` has saved there, or its cache.

    Raises:
        DataError: not all rows of its tables are rows of the dataset.
    """
    if not any(name.endswith(".arrow") for name in names):
        return names & {"dataset_dict.json"}
    aside = names & {"dataset_info.json", "state.json"}
    try:
        state = json.loads(Path(path, "state.json").read_bytes())
        tables = {file["filename"] for file in state["_data_files"]}
        indices = state.get("_indices_data_files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return aside
    if indices:
        what = "a dataset saved as a choice of its rows, by an old version of `datasets`"
        raise DataError(f"{path}: {what}: load it and save it again")
    return aside | {name for name in names if name.endswith(".arrow") and name not in tables}


def identity_of(status: os.stat_result, path: str) -> Hashable:
    """Return device and inode of a file, or its path where the system has no inodes."""
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _scan(path: str) -> tuple[Hashable, list[os.DirEntry[str]]]:
    """Return the identity and the entries of a folder."""
    try:
        with os.scandir(path) as entries:
            return identity_of(os.stat(path), path), list(entries)  # noqa: PTH116
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
