"""Versioned JSON records that carry a checksum of themselves.

    {"format_version": 2, "step": 500, "seal": "9f86d0..."}

The last member, "seal", is the SHA-256 of the whole file with 64 zeros in its place, so that white space and
the order of members count too. It finds damage; it is not a signature, since anybody can compute it again.

Manifests of checkpoints and tokenizers, sidecars of token files and build journals are such records. Each
describes itself with a `RecordFormat`, is written with `dump` and read with `load`.
"""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FORMAT_VERSION = "format_version"
CHECKSUM = "seal"
_NO_DIGITS = "0" * 64
_TYPE_NAMES = {bool: "true or false", int: "a whole number", str: "text", list: "a list", dict: "an object"}


@dataclass(frozen=True, kw_only=True)
class RecordFormat:
    """Description of one kind of record, for `load`."""

    version: int
    """The newest format version that this package reads, and the one that it writes."""
    checksum_since: int
    """The first format version whose records have a checksum."""
    members: Mapping[str, type]
    """Required members and their JSON types: bool, int, str, list or dict."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values of members that a record without a checksum may lack."""
    added: Mapping[str, Any] = field(default_factory=dict)
    """Values of members that any record may lack, since earlier versions did not write them."""


class RecordError(ValueError):
    """A record that is damaged or of another form: no valid JSON, or not what its format promises."""

    def __init__(self, what: str, line: int = 1) -> None:
        super().__init__(what)
        self.line = line
        """Line of the file at which it shows, counted from 1."""


class NewerFormatError(RecordError):
    """A record of a later format version than this package knows."""

    def __init__(self, version: int, newest: int) -> None:
        advice = "a newer transformerlm has written it; update the package"
        super().__init__(f"expected format {newest} or older, got {version!s:.40}: {advice}")
        self.version, self.newest = version, newest


class ChecksumError(RecordError):
    """A record whose checksum is missing or is not that of its content."""

    def __init__(self, what: str, expected: str | None, actual: str | None = None) -> None:
        super().__init__(what)
        self.expected, self.actual = expected, actual
        """SHA-256 that the record has as its checksum (None: it has none) and that of its content."""


class MemberError(RecordError):
    """A record without a required member, or with one of a wrong type."""

    def __init__(self, member: str, expected: str) -> None:
        super().__init__(f'"{member}" is missing or of a wrong type: expected {expected}')
        self.member, self.expected = member, expected


def members_of(record: type) -> dict[str, type]:
    """Return the fields of a dataclass and their JSON types, as `RecordFormat.members` takes them."""
    return {name: typing.get_origin(hint) or hint for name, hint in typing.get_type_hints(record).items()}


def dump(values: Mapping[str, Any]) -> bytes:
    """Return `values`, "format_version" among them, as indented JSON with a checksum."""
    assert CHECKSUM not in values
    content = json.dumps({**values, CHECKSUM: _NO_DIGITS}, indent=1).encode() + b"\n"
    return _with_digits(content, hashlib.sha256(content).hexdigest())


def load(content: bytes, record_format: RecordFormat) -> dict[str, Any]:
    """Read a record and return the members that `record_format` describes; others are ignored.

    Raises:
        NewerFormatError: its format version is later than the newest known one.
        ChecksumError: its checksum is wrong, or it has none although its format version promises one.
        MemberError: a member is missing or of a wrong type, the format version among them.
        RecordError: it is no JSON object.
    """
    values = _parse(content)
    version = values.get(FORMAT_VERSION)
    if type(version) is not int or version < 1:
        raise MemberError(FORMAT_VERSION, "a whole number of at least 1")
    if version > record_format.version:
        raise NewerFormatError(version, record_format.version)  # its checksum may be computed in another way
    if CHECKSUM in values:
        _verify(content, values[CHECKSUM])
    elif version >= record_format.checksum_since:  # damage may have hit the name of the checksum
        raise ChecksumError(f"its own checksum is missing, which format {version} has", expected=None)
    if version < record_format.checksum_since:
        values = {**record_format.defaults, **values}
    values = {**record_format.added, **values}
    for name, expected in record_format.members.items():
        if type(values.get(name)) is not expected:
            raise MemberError(name, _TYPE_NAMES[expected])
    return {name: values[name] for name in record_format.members}


def _parse(content: bytes) -> dict[str, Any]:
    try:
        values = json.loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise RecordError("not valid JSON: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise RecordError(f"not valid JSON: {error}", error.lineno) from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecordError(f"not valid JSON: not UTF-8 at byte {error.start}", line) from None
    except ValueError as error:  # a number of thousands of digits
        raise RecordError(f"not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise RecordError("not a JSON object")
    return values


def _verify(content: bytes, checksum: Any) -> None:
    actual = hashlib.sha256(_with_digits(content, _NO_DIGITS)).hexdigest()
    if checksum != actual or _with_digits(content, actual) != content:
        expected = f"{checksum}" if isinstance(checksum, str) and checksum.isalnum() else f"{checksum!a}"
        what = f"not as it was written: expected SHA-256 {expected:.80}, got {actual}"
        raise ChecksumError(what, expected, actual)


def _with_digits(content: bytes, digits: str) -> bytes:
    """Return a record with other digits in its checksum, which always ends four bytes before the end."""
    end = len(content) - len('"\n}\n')
    return content[: end - len(digits)] + digits.encode() + content[end:]
