"""Texts in other scripts that most Linux systems have: the translated messages of their programs."""

from __future__ import annotations

import gettext
from collections.abc import Iterator
from pathlib import Path

from transformerlm.errors import DataError

SHARE = Path("/usr/share")
"""Folder of files that programs share, as systems have it."""
PREFIX = "messages:"
"""`messages:ru` stands for the Russian ones."""
_FOLDERS = ("locale", "vim/vim*/lang")  # of LANGUAGE/LC_MESSAGES/*.mo
_DOCUMENT = 50  # messages
_AFTER_LATIN = 0x2FF


def write_messages(language: str, path: Path) -> Path:
    """Write the messages in a language, such as "ru" or "zh_CN", as documents of 50, each message once.

    Raises:
        DataError: there are none.
    """
    documents: list[str] = []
    seen = set[str]()
    for messages in _catalogs(language):
        new = [text for text in dict.fromkeys(messages) if text not in seen]
        seen.update(new)
        parts = (new[start : start + _DOCUMENT] for start in range(0, len(new), _DOCUMENT))
        documents += ["\n".join([*part, ""]) for part in parts]
    if not documents:
        what = f"expected programs' messages in a language below {SHARE}, such as ru or zh_CN"
        raise DataError(f"{what}, got {language!a:.60}")
    path.write_text("<|endoftext|>".join(documents), encoding="utf-8", newline="")
    return path


def _catalogs(language: str) -> Iterator[list[str]]:
    """Yield the messages of each program that have a letter of a script other than Latin."""
    for folder in _FOLDERS:
        for path in sorted(SHARE.glob(f"{folder}/{language}/LC_MESSAGES/*.mo")):
            with path.open("rb") as file:
                catalog: dict[object, str] = vars(gettext.GNUTranslations(file))["_catalog"]
            found = (text for key, text in catalog.items() if key)  # that of "" is about the file
            yield [text for text in found if max(text, default="") > chr(_AFTER_LATIN)]
