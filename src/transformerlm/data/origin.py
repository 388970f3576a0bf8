"""Origin of token files: the text and the settings that they were made from, compared with those of now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformerlm.config import CorpusConfig
from transformerlm.data.corpus import (
    DEFAULTS_OF_RECORDS,
    Corpora,
    KnownFiles,
    MissingCorpusError,
    find_corpora,
    token_settings,
)
from transformerlm.data.file_record import FileRecord, changes, is_outdated, read_known_files
from transformerlm.data.selection import DECISION_KEY, method_settings
from transformerlm.progress import Reporter

_CONTENT = "content of "
MERGED_KEY = "merged from"
"""Key of `made_from` of files that were merged (`merge.py`): no config describes all of their text."""
_FOLLOWS = (DECISION_KEY,)
"""Keys whose values follow from settings and text, and are not computed again to be compared."""


def differences(made_from: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return a line for each key whose value differs: `key: value in made_from -> value in asked`."""
    keys = [*asked, *(key for key in made_from if key not in asked)]
    defaults = {key: DEFAULTS_OF_RECORDS.get(key, "none") for key in keys}
    values = ((key, made_from.get(key, defaults[key]), asked.get(key, defaults[key])) for key in keys)
    return [f"{key}: {old} -> {new}" for key, old, new in values if old != new]


@dataclass(frozen=True)
class Origin:
    """Origin that token files would have now: text and settings, without the tokenizer."""

    values: Mapping[str, Any]
    """In the form of a sidecar's `made_from`."""
    changes: tuple[str, ...] = ()
    """Lines about files that are not those of the token files."""

    @classmethod
    def now(
        cls, config: CorpusConfig, made_from: Mapping[str, Any], directory: Path, reporter: Reporter
    ) -> Origin:
        """Return the origin that token files in `directory` would have now.

        Only files that may have changed are read. If the corpus is gone, it is assumed to be unchanged.

        Args:
            config: [data].
            made_from: the origin that the files there have. Where it differs otherwise, no content is read.
            directory: folder of the token files, and of the record of the corpus' files.
            reporter: receives messages and progress.

        Raises:
            DataError: the corpus cannot be read.
        """
        known = read_known_files(directory)
        try:
            found = cls._of_files(find_corpora(config, known), config, made_from, directory, known, reporter)
            if known and found.differs(made_from):  # the record may be damaged: look at the files themselves
                found = cls._of_files(find_corpora(config), config, made_from, directory, known, reporter)
            return found
        except MissingCorpusError as error:
            reporter.say(f"{error}; going on with what was made from it before")
            files = {
                key: value for key, value in made_from.items() if key.startswith(("files of ", _CONTENT))
            }
            has_jsonl = "[data].jsonl_special_tokens" in made_from
            return cls({**_settings(config, made_from, has_jsonl=has_jsonl), **files})

    @classmethod
    def _of_files(
        cls,
        corpora: Corpora,
        config: CorpusConfig,
        made_from: Mapping[str, Any],
        directory: Path,
        known: Mapping[str, KnownFiles],
        reporter: Reporter,
    ) -> Origin:
        values = {**_settings(config, made_from, has_jsonl=corpora.has_jsonl), **corpora.summary()}
        content = {key: value for key, value in made_from.items() if key.startswith(_CONTENT)}
        if not content or differences(made_from, {**values, **content}):
            return cls({**values, **content}, tuple(_changes(corpora, known, None)))
        record = FileRecord.of(corpora, reporter, config.num_workers)
        found = cls({**values, **record.summary()}, tuple(_changes(corpora, known, record)))
        if (record.is_new or is_outdated(known)) and not found.differs(made_from):
            record.write(directory)
        return found

    def differs(self, made_from: Mapping[str, Any]) -> bool:
        """Return True if token files of that origin are not those that would be made now."""
        return bool(differences(made_from, self.values))


def _settings(config: CorpusConfig, made_from: Mapping[str, Any], *, has_jsonl: bool) -> dict[str, Any]:
    """Return the settings of now, and what of `made_from` follows from them and the text."""
    follows = {key: value for key, value in made_from.items() if key in _FOLLOWS}
    return {**token_settings(config, has_jsonl=has_jsonl), **method_settings(config), **follows}


def _changes(corpora: Corpora, known: Mapping[str, KnownFiles], record: FileRecord | None) -> Iterator[str]:
    """Yield a line for each corpus that has changed since its files were recorded."""
    for name, corpus in corpora.named.items():
        found = changes(known[name], corpus, record.digests[name] if record else ()) if name in known else ""
        if found:
            yield f"[data].{name}: {found}"
