"""JSON that knows whether it is what was written: its last member is a checksum of all the rest.

    {"step": 500, "seal": "9f86d0..."}

The SHA-256 is that of the whole file with 64 zeros in its place, white space and order of keys included.
It finds damage. It is no signature: whoever changes a file on purpose can seal it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "seal"
_NO_DIGITS = "0" * 64


def seal(values: Mapping[str, Any]) -> bytes:
    """`values`, which have no member "seal", as indented and sealed JSON."""
    assert SEAL not in values
    content = json.dumps({**values, SEAL: _NO_DIGITS}, indent=1).encode() + b"\n"
    return _with_digits(content, hashlib.sha256(content).hexdigest())


def unseal(content: bytes) -> tuple[dict[str, Any], bool]:
    """The members without the seal, and whether there was one: older formats have none.

    Raises:
        ValueError: no JSON object, or its seal is broken.
    """
    try:
        values = json.loads(content)
    except RecursionError:
        raise ValueError("not valid JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    if SEAL not in values:
        return values, False
    promised = values.pop(SEAL)
    found = hashlib.sha256(_with_digits(content, _NO_DIGITS)).hexdigest()
    if promised != found or _with_digits(content, found) != content:
        raise ValueError(f"not as it was written: expected SHA-256 {promised}, got {found}")
    return values, True


def _with_digits(content: bytes, digits: str) -> bytes:
    """The file with these digits in its seal, which are always at the same distance from the end."""
    end = len(content) - len('"\n}\n')
    return content[: end - len(digits)] + digits.encode() + content[end:]
