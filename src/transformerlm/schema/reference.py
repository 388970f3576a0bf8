"""The key reference of a command, as Markdown, from the sections and their documentation."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

from transformerlm.schema.section import Section, field_docs, field_types, tables
from transformerlm.schema.values import describe


def key_reference_markdown(config_class: type[Section]) -> str:
    """Return every key of a command's config as Markdown: a heading per table, a list item per key.

    Args:
        config_class: the config, such as `transformerlm.config.TrainConfig`.
    """
    return "\n".join(
        line for table, section in tables(config_class).items() for line in _table_lines(table, section)
    )


def _table_lines(table: str, section: type[Section]) -> Iterator[str]:
    yield from (f"## `[{table}]`", "")
    # The documentation of a section begins with the name of its table, which is the heading here.
    summary = inspect.cleandoc(section.__doc__ or "").removeprefix(f"[{table}]").lstrip(":, ")
    yield from (escaped(summary[:1].upper() + summary[1:]), "")
    docs, defaults = field_docs(section), section()
    for key, hint in field_types(section).items():
        yield from (f"- `{key} = {_literal(getattr(defaults, key))}` ({escaped(describe(hint))})", "")
        yield from (f"  {escaped(line)}" for line in docs[key].splitlines())
        yield ""


def _literal(value: Any) -> str:
    """Return a default as TOML on one line; None, for which TOML has no word, as in Python."""
    return "None" if value is None else json.dumps(value, ensure_ascii=False)


def escaped(text: str) -> str:
    """Return `text` with the characters escaped that Markdown would take for markup; `code` stays code."""
    parts = text.split("`")
    parts[::2] = (re.sub(r"([\\*_\[\]<>|$#])", r"\\\1", part) for part in parts[::2])
    return "`".join(parts)
