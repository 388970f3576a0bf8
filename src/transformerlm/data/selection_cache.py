"""Decisions about copies, kept in the user's cache folder.

Token files record their decision and never need it again. But a new text is read several times (to choose
sizes, to train a tokenizer, to encode), and each evaluation reads the validation text from the corpus: of a
large text the search for copies would take longer than that. A decision is kept for the files as they are,
told by their sizes and times; while these are too new to tell another change, nothing is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformerlm.data.corpus import Corpora, settings
from transformerlm.data.division import Division
from transformerlm.data.file_record import CLOCK_NANOSECONDS
from transformerlm.errors import OutputError
from transformerlm.kernels.environment import cache_dir
from transformerlm.storage.checksummed_json import RecordFormat, dump, load
from transformerlm.storage.files import committed_file

MIN_BYTES = 8 * 2**20
"""Text from which a decision is kept: of less it is made again in a second or two."""
MAX_KEPT = 20
"""Decisions that are kept, the newest ones."""
FORMAT = RecordFormat(version=1, checksum_since=1, members={"values": dict})


def cached(division: Division, method: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `make` returns, JSON values, or what it returned before for the same files and settings.

    The corpus is divided for it, for which files that are not plain are read once.
    """
    if division.corpora.num_bytes < MIN_BYTES or _are_fresh(division.corpora):
        return make()
    path = cache_dir() / "copies" / f"{_key(division, method)}.json"
    with contextlib.suppress(OSError, ValueError):
        return dict(load(path.read_bytes(), FORMAT)["values"])
    values = make()
    with contextlib.suppress(OSError, OutputError):
        with committed_file(path) as file:
            file.write(dump({"format_version": FORMAT.version, "values": values}))
        _remove_old(path.parent)
    return values


def _are_fresh(corpora: Corpora) -> bool:
    """Return True if a file is so new that another change may leave it the same times."""
    return any(
        abs(corpora.listed_at - at) < CLOCK_NANOSECONDS
        for corpus in corpora.named.values()
        for source in corpus.sources
        for at in (source.modified, source.changed)
    )


def _key(division: Division, method: str) -> str:
    """Return a checksum of everything that the decision, and the chunks that it names, depend on."""
    found = hashlib.sha256(json.dumps([method, settings(division.config)], sort_keys=True).encode())
    for corpus in division.corpora.named.values():
        for source in corpus.sources:
            row = source.path, source.num_bytes, source.modified, source.changed
            found.update(repr(row).encode(errors="surrogateescape"))
    for chunk in division.chunks():
        found.update(repr(tuple(chunk._replace(content=None))).encode(errors="surrogateescape"))
    return found.hexdigest()[:32]


def _remove_old(directory: Path) -> None:
    kept = sorted(directory.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in kept[MAX_KEPT:]:
        path.unlink(missing_ok=True)
