"""The token files of several corpora, read like one where only numbers are asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformerlm.data.token_file import TokenFile


@dataclass(frozen=True)
class TokenGroup:
    """The token files of a mixture's corpora, all of one split; numbers are sums."""

    files: Mapping[str, TokenFile]
    """Name of the corpus -> its file, in the order of [data].mixture."""

    @property
    def num_tokens(self) -> int:
        """Number of ids."""
        return sum(file.num_tokens for file in self.files.values())

    @property
    def num_documents(self) -> int:
        """Number of documents in the text."""
        return sum(file.num_documents for file in self.files.values())

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the text."""
        return sum(file.num_bytes for file in self.files.values())

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the tokenizer, which is the same for all."""
        return next(iter(self.files.values())).fingerprint

    @property
    def made_from(self) -> dict[str, Any]:
        """Settings and files that the tokens were made from; those of one corpus have its name."""
        origins = {name: file.made_from for name, file in self.files.items()}
        return {f"{key} ({name})": value for name, own in origins.items() for key, value in own.items()}

    @property
    def sha256(self) -> str:
        """One checksum of the names and of all ids."""
        sums = {name: file.sha256 for name, file in self.files.items()}
        return hashlib.sha256(json.dumps(sums).encode()).hexdigest()


Tokens = TokenFile | TokenGroup
"""The tokens of a split."""


def files_of(tokens: Tokens) -> dict[str, TokenFile]:
    """Return the files of a split by the names of their corpora; "" for the only one."""
    return dict(tokens.files) if isinstance(tokens, TokenGroup) else {"": tokens}
