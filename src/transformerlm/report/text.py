"""Numbers and texts as the page shows them."""

from __future__ import annotations

import math
import unicodedata

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: float) -> str:
    """Format a count: `12,345`, `1.23 M`; a dash if it is not known."""
    if not math.isfinite(number):
        return "–"
    if abs(number) < 1e5:
        return f"{number:,.0f}"
    scale, unit = next((scale, unit) for scale, unit in _UNITS if abs(number) >= scale)
    return f"{number / scale:.3g} {unit}" if abs(number) < 999.5 * scale else f"{number / scale:,.0f} {unit}"


def num_bytes(number: float) -> str:
    """Format bytes: `384 kB`."""
    return f"{count(number)}B" if abs(number) >= 1e5 else f"{number:,.0f} bytes"


def percent(part: float, whole: float) -> str:
    """Format a share: `31.6 %`, `0.02 %`; a share that is not nothing is never shown as nothing."""
    share = 100 * part / whole if whole else 0.0
    if not share:
        return "0 %"
    return f"{share:.1f} %" if share >= 0.1 else f"{share:.2g} %" if share >= 0.001 else "under 0.001 %"


def duration(seconds: float) -> str:
    """Format a time: `0.3 s`, `42 s`, `12 min 5 s`, `3 h 20 min`, `2 d 4 h`; a dash if it is not known."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    units = ((60, "s", 1), (3600, "min", 60), (86400, "h", 3600), (math.inf, "d", 86400))
    number = next(number for number, (limit, _, _) in enumerate(units) if whole < limit)
    _, unit, size = units[number]
    large, rest = divmod(whole, size)
    if not number or not (small := rest // units[number - 1][2]):
        return f"{large} {unit}"
    return f"{large} {unit} {small} {units[number - 1][1]}"


def visible(text: str) -> str:
    """Return a text with its control characters as symbols, which a page would swallow or obey."""
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    code = ord(character)
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs"):
        return character
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"


def token_text(token: bytes) -> str:
    """Return a token with its white space as symbols; bytes that are no text as `\\xff`."""
    text = token.decode("utf-8", "backslashreplace")
    return visible(text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥"))


def cut(text: str, length: int) -> str:
    """Return a text of at most `length` characters, the last one an ellipsis if it is cut."""
    return text if len(text) <= length else text[: length - 1] + "…"
