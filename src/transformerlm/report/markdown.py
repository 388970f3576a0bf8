"""Texts of any kind in Markdown and in YAML, where none of them can end what it stands in.

A name or a sample may have backticks, line breaks, `---`, tags and control characters.
"""

from __future__ import annotations

import json
import re

from transformerlm.report.text import visible

_SPECIAL = re.compile(r"[\\`*_\[\]<>|~$&#{}!]")
_NOT_IN_YAML = re.compile("[^\n -~\u00a0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""Characters that YAML does not allow in text, or reads as line breaks."""


def plain(text: str) -> str:
    """Return a text as it reads within a line of Markdown, every special character escaped."""
    return _SPECIAL.sub(r"\\\g<0>", _one_line(text))


def code(text: str) -> str:
    """Return a text as code within a line or a table of Markdown."""
    text = _one_line(text)
    if "|" in text or not text.strip():  # a table would end its cell there, even in code
        return plain(text) or "(empty)"
    fence = _fence(text, 1)
    space = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{space}{text}{space}{fence}"


def block(text: str, language: str = "") -> str:
    """Return a text as a block of code."""
    text = visible(text.replace("\r\n", "\n"))
    fence = _fence(text, 3)
    return f"{fence}{language}\n{text}{'' if text.endswith(chr(10)) else chr(10)}{fence}"


def yaml(value: object) -> str:
    """Return text, a number, or a list or table of such as YAML on one line.

    JSON is YAML, except for characters that YAML does not allow. Numbers that are not finite become text.
    """
    text = json.dumps(value, ensure_ascii=False, default=str)
    return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _fence(text: str, least: int) -> str:
    """Return more backticks than stand together anywhere in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)


def _one_line(text: str) -> str:
    return visible(" ".join(text.split("\n"))).replace("\t", " ")
